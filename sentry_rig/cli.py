"""The `sentry-rig` command. Each command imports what it needs when it runs, so that --help and completion are quick."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.clock import Clock
from sentry_core.cli import Home, Kind, commands
from sentry_core.cli import main as run_app

if TYPE_CHECKING:
    from sentry_core.post import Post
    from sentry_core.settings import SentrySettings

app = typer.Typer(name="sentry-rig", help="Stands on a GPU or CPU rig.", no_args_is_help=True)


@app.command()
def hardware(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what can be seen of this machine: processor, memory, disks, NVIDIA cards. Needs no commander."""
    from sentry_rig.hardware import gather, print_table

    found = asyncio.run(gather())
    if as_json:
        import json

        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        print_table(found)


@app.command()
def log(
    home: Home = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.", min=1, max=100_000)] = 50,
) -> None:
    """Print the last lines of the mining program's output."""
    from garrison.faults import NotFound
    from garrison.logs import redact
    from sentry_rig.miner_log import tail

    file = _state_dir(home) / "miner" / "miner.log"
    if not file.exists():
        raise NotFound(f"there is no {file}", hint="no mining program has run here yet, or --home names another farm")
    for line in tail(file, lines):
        sys.stdout.write(redact(line) + "\n")


@app.command("end-miner")
def end_miner(home: Home = None) -> None:
    """End the mining program that goes on while the sentry is stopped. A running sentry is told to `pause` instead."""
    from garrison.faults import Conflict
    from sentry_core.cli import standing
    from sentry_rig.supervisor import end_left_miner

    state_dir = _state_dir(home)
    if standing(state_dir)["running"]:
        raise Conflict("the sentry is running and would start it again", hint="stop the sentry first, or `commander order pause`")
    ended = asyncio.run(end_left_miner(state_dir / "miner"))
    sys.stdout.write("the mining program has ended\n" if ended else "no mining program of this sentry runs\n")


def _state_dir(home: Path | None) -> Path:
    return _KIND.state_dir(home)


def _settings() -> type[SentrySettings]:
    from sentry_rig.settings import RigSentrySettings

    return RigSentrySettings


def _make_post(settings: Any, state_dir: Path, clock: Clock) -> Post:
    from sentry_rig.post import RigPost

    return RigPost(settings.rig, state_dir, clock)


_KIND = Kind("rig", "sentry-rig", _settings, _make_post)
commands(app, _KIND)


def main() -> None:
    """The console script."""
    run_app(app)


if __name__ == "__main__":
    main()
