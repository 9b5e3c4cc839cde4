"""The commands that every kind of sentry has: run, enrol, status, config, guard, service.

A sentry's own `cli.py` calls `commands(app, Kind(…))`. What a command needs is imported when it runs: `run` stays small.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.clock import Clock
from garrison.faults import Fault, NoCertificate, NotFound
from sentry_core.settings import FILE, SentrySettings, home_of

if TYPE_CHECKING:
    from sentry_core.post import Post
    from sentry_core.service import Daemon

MakePost = Callable[[Any, Path, Clock], "Post"]
"""(its settings, its state folder, clock) to the post. Called by `run`, and by `enrol` for the facts."""

Home = Annotated[Path | None, typer.Option(help="The farm's folder.", envvar="GARRISON_HOME", show_default="./farm")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of sentry: "rig" or "asic", its program, its settings class, how its post is made."""

    name: str
    program: str
    settings: Callable[[], type[SentrySettings]]
    make_post: MakePost

    @property
    def title(self) -> str:
        return f"Garrison {self.program}. Every key is optional; these are the defaults."

    def state_dir(self, home: Path | None) -> Path:
        return home_of(home) / self.program

    def load(self, state_dir: Path) -> SentrySettings:
        """Without a file the defaults hold."""
        from garrison import settings

        try:
            return settings.load(state_dir / FILE, self.settings())
        except NotFound:
            return self.settings()()


_KINDS: dict[int, Kind] = {}


def commands(app: typer.Typer, kind: Kind) -> None:
    """Adds them to `app`."""
    _KINDS[id(app)] = kind
    _add_version(app, kind)
    _add_run(app, kind)
    _add_enrol(app, kind)
    _add_status(app, kind)
    _add_config(app, kind)
    _add_guard(app, kind)
    _add_service(app, kind)


def run_in_foreground(kind: Kind, home: Path | None) -> None:
    """What `run` does. Raises a Fault when it cannot start."""
    from garrison import logs
    from garrison.clock import SystemClock
    from sentry_core import daemon

    state_dir, clock = kind.state_dir(home), SystemClock()
    settings = kind.load(state_dir)
    logs.start(settings.log.shape, settings.log.level)

    async def work() -> None:
        await daemon.run(kind.make_post(settings, state_dir, clock), settings, state_dir, clock)

    asyncio.run(work())


def _add_version(app: typer.Typer, kind: Kind) -> None:
    def show(wanted: bool) -> None:
        if wanted:
            from importlib.metadata import version

            typer.echo(f"{kind.program} {version('garrison')}")
            raise typer.Exit

    @app.callback()
    def before_any_command(
        # not in Annotated: `show` belongs to this kind, and annotations are read where only the module's names are known
        _: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=show),
    ) -> None:
        pass


def _add_run(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def run(home: Home = None) -> None:
        """Run in the foreground until SIGTERM or Ctrl-C."""
        run_in_foreground(kind, home)


def _add_enrol(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def enrol(
        token: Annotated[str, typer.Argument(help="What `commander sentries token` printed.")],
        home: Home = None,
    ) -> None:
        """Join a farm: make a key, ask for its certificate, wait until somebody approves."""
        from garrison import keyfile, settings
        from garrison.clock import SystemClock
        from sentry_core import enrolment, guard

        state_dir, clock = kind.state_dir(home), SystemClock()
        facts = kind.make_post(kind.load(state_dir), state_dir, clock).facts()

        def pending(fingerprint: str) -> None:
            typer.echo(f"waiting for approval. Compare on the commander (`commander sentries list`): {fingerprint}")

        folder = state_dir / "identity"
        joined = asyncio.run(enrolment.enrol(folder, token, kind.name, facts, clock, on_pending=pending))
        if guard.write_default(state_dir):
            typer.echo(f"wrote {state_dir / guard.FILE}: what the commander may order here; read it")
        if not (state_dir / FILE).exists():
            keyfile.write(state_dir / FILE, settings.example(kind.settings(), kind.title).encode())
        typer.echo(f"enrolled as sentry {joined.sentry_id}; its commander is {joined.post_address}")
        typer.echo(f"next: `{kind.program} run`, or `{kind.program} service install`")


def _add_status(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def status(home: Home = None, json_: Json = False) -> None:
        """Who this sentry is, and how its session stands. Exit code 1 when it is not enrolled."""
        found = standing(kind.state_dir(home))
        if json_:
            typer.echo(json.dumps(found, indent=2))
        else:
            for name, value in found.items():
                if value not in (None, ""):
                    typer.echo(f"{name:<18} {value}")
        if not found["enrolled"]:
            raise typer.Exit(1)


def standing(state_dir: Path) -> dict[str, Any]:
    """From the files alone: the running sentry is not asked. None: not known."""
    from sentry_core import enrolment, identity

    found: dict[str, Any] = {"enrolled": False, "sentry": None, "fingerprint": None, "certificate_until_ms": None}
    try:
        who = identity.load(state_dir / "identity")
    except NoCertificate:
        pass
    except Fault as fault:
        found["text"] = str(fault)
    else:
        found |= {
            "enrolled": True,
            "sentry": who.sentry_id,
            "fingerprint": enrolment.fingerprint(who.key_pem),
            "certificate_until_ms": who.not_after_ms,
            "commander": who.post_address,
        }
    try:
        told = json.loads((state_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    running = _runs(state_dir)
    found["running"] = running
    found["session"] = told.get("state") if running else None
    for name in ("since_ms", "farm", "fault", "text", "commander"):
        if running and told.get(name):
            found[name] = told[name]
    return found


def _runs(state_dir: Path) -> bool:
    """Whether a process holds the journal: it has an exclusive lock as long as it lives."""
    import sqlite3

    path = state_dir / "journal.db"
    if not path.exists():
        return False
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    except sqlite3.Error:
        return False
    try:
        db.execute("select 1 from meta").fetchone()
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    except sqlite3.Error:
        return False
    finally:
        db.close()
    return False


def _add_config(app: typer.Typer, kind: Kind) -> None:
    config = typer.Typer(help="The settings file.", no_args_is_help=True)

    @config.command()
    def check(home: Home = None) -> None:
        """Read the settings and the guard, and say what is wrong with them."""
        from garrison import settings
        from sentry_core import guard

        state_dir = kind.state_dir(home)
        settings.load(state_dir / FILE, kind.settings())
        typer.echo(f"{state_dir / FILE} is good")
        guard.load(state_dir)
        typer.echo(f"{state_dir / guard.FILE} is good")

    @config.command()
    def example() -> None:
        """Print a settings file with every key, its default and what it means."""
        from garrison import settings

        typer.echo(settings.example(kind.settings(), kind.title), nl=False)

    app.add_typer(config, name="config")


def _add_guard(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def guard(
        home: Home = None,
        write: Annotated[bool, typer.Option("--write", help="Write the file with its defaults when there is none.")] = False,
        json_: Json = False,
    ) -> None:
        """Show what the commander may order on this machine."""
        import msgspec

        from sentry_core import guard as guards

        state_dir = kind.state_dir(home)
        if write:
            written = guards.write_default(state_dir)
            typer.echo(f"{'wrote' if written else 'left as it is:'} {state_dir / guards.FILE}", err=True)
        found = msgspec.to_builtins(guards.load(state_dir))
        if json_:
            typer.echo(json.dumps(found, indent=2))
        else:
            for name, value in found.items():
                typer.echo(f"{name:<28} {', '.join(value) or 'any' if isinstance(value, list | tuple) else value}")

    # one word, because there is one thing to see: the file itself is edited with an editor


def _add_service(app: typer.Typer, kind: Kind) -> None:
    service = typer.Typer(help=f"{kind.program} as a system service.", no_args_is_help=True)

    @service.command()
    def install(home: Home = None) -> None:
        """Install and start the service."""
        from sentry_core import service as services

        typer.echo(services.install(_daemon(kind), home_of(home)))

    @service.command()
    def remove() -> None:
        """Stop and remove the service. Its data stays, and so does a mining program that it started."""
        from sentry_core import service as services

        typer.echo(services.remove(_daemon(kind)))

    @service.command(name="status")
    def service_status(json_: Json = False) -> None:
        """Whether it is installed and runs."""
        from sentry_core import service as services

        found = services.status(_daemon(kind)).as_row()
        if json_:
            typer.echo(json.dumps(found, indent=2))
        else:
            for name, value in found.items():
                typer.echo(f"{name:<12} {value}")

    app.add_typer(service, name="service")


def _daemon(kind: Kind) -> Daemon:
    from sentry_core.service import Daemon

    return Daemon(
        f"garrison-{kind.program}", f"Garrison {kind.program}", (kind.program, "run"), "rig" if kind.name == "rig" else "asic"
    )


def main(app: typer.Typer) -> None:
    """The entry point of a sentry's program: an error is a line that says what is wrong, one with what to do, and exit code 1."""
    home = plain_run(sys.argv[1:])
    try:
        if home is not None and id(app) in _KINDS:
            run_in_foreground(_KINDS[id(app)], home if home.parts else None)
        else:
            app(standalone_mode=True)
    except Fault as fault:
        _say(f"error: {fault.text}", f"hint: {fault.hint}" if fault.hint else "")
        sys.exit(1)
    except ExceptionGroup as group:
        found = [one for one in _leaves(group) if isinstance(one, Fault)]
        if not found:
            raise
        _say(f"error: {found[0].text}", f"hint: {found[0].hint}" if found[0].hint else "")
        sys.exit(1)
    except OSError as error:
        _say(f"error: {error.filename + ': ' if error.filename else ''}{error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def plain_run(argv: list[str]) -> Path | None:
    """The home when the words are `run` or `run --home X` alone; an empty path when none is named; None for anything else.

    Typer reads the words of all other calls. What it builds for that would stay in memory as long as the sentry runs: 9 MB.
    """
    match argv:
        case ["run"]:
            return Path()
        case ["run", "--home", home] if home:
            return Path(home)
        case ["run", given] if len(given) > 7 and given.startswith("--home="):
            return Path(given.removeprefix("--home="))
    return None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]


def _say(*lines: str) -> None:
    for line in filter(None, lines):
        typer.echo(line, err=True)
