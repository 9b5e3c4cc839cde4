"""`make run` and `make demo`: a whole farm on this machine, from nothing, until Ctrl-C.

    python -m tools.quickstart run     commander + rig sentry for this very machine
    python -m tools.quickstart demo    the same, plus an ASIC sentry with simulated miners and a simulated relay board

Everything goes through the same commands that an owner uses. A second start finds the same farm and goes on with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
PORTS_FROM = 8440


class Failed(Exception):
    """What did not work, in words."""


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]


@dataclass
class Farm:
    """The processes of one farm. `live`: a person looks at a terminal, so logs go to files. `ports_from`: where a new farm
    listens: HTTP, then the sentries at work, then new ones."""

    home: Path
    live: bool
    ports_from: int = PORTS_FROM
    children: list[Child] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "GARRISON_HOME": str(self.home)}

    def command(self, program: str, *arguments: str) -> str:
        """Runs one of our commands to its end; its error is ours."""
        done = subprocess.run(
            [BIN / program, *arguments], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise Failed(f"{program} {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def start(self, name: str, arguments: Sequence[str | Path], *, pipe: bool = False) -> Child:
        """Starts a daemon in a session of its own, so that Ctrl-C reaches only us and we stop all in order."""
        log = None
        if self.live:
            folder = self.home / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            log = (folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            arguments,
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else (log or sys.stderr),
            stderr=log or sys.stderr,
            start_new_session=True,
        )
        if log:
            log.close()
        child = Child(name, process)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Failed when one of them has ended by itself."""
        for child in self.children:
            if child.process.poll() is not None:
                where = f"; see {self.home / 'logs' / child.name}.log" if self.live else ""
                raise Failed(f"{child.name} ended with code {child.process.returncode}{where}")

    def until(self, what: str, seen: Any) -> Any:
        """Asks `seen` until it is true."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(Failed):
                if found := seen():
                    return found
            time.sleep(0.2)
        raise Failed(f"{what}: not within {START_LIMIT_S:.0f} s")

    def stop(self) -> None:
        """The last started first; who does not end in time is killed. Then the miner, which goes on without its sentry."""
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        had_rig = any(child.name == "sentry-rig" for child in self.children)
        self.children.clear()
        if had_rig:
            try:
                self.command("sentry-rig", "end-miner")
            except Failed as error:
                say(str(error))


def begin(farm: Farm) -> None:
    """The commander, initialised once, and the rig sentry of this machine, enrolled once."""
    if not (farm.home / "commander" / "ca").exists():  # what `init` makes last: an interrupted one is run again
        here = ["--listen", "127.0.0.1", "--advertise", "127.0.0.1"]
        ports = zip(("--http-port", "--post-port", "--enrol-port"), range(farm.ports_from, farm.ports_from + 3), strict=True)
        say(farm.command("commander", "init", "--farm", "my farm", *here, *(str(word) for port in ports for word in port)))
    farm.start("commander", [BIN / "commander", "run"])
    farm.until("the commander", lambda: farm.command("commander", "status", "--json"))
    join(farm, "rig")


def join(farm: Farm, kind: str) -> None:
    """Enrols the sentry of this kind, if it is not yet, and starts it."""
    program = f"sentry-{kind}"
    if not (farm.home / program / "identity" / "identity.pem").exists():
        token = farm.command("commander", "sentries", "token", "--kind", kind, "--approve")
        say(farm.command(program, "enrol", token))
    farm.start(program, [BIN / program, "run"])
    farm.until(
        f"the {kind} sentry",
        lambda: any(s["kind"] == kind and s["state"] == "connected" for s in listed(farm, "sentries", "list", key=None)),
    )


def listed(farm: Farm, *command: str, key: str | None = None) -> list[dict[str, Any]]:
    found = json.loads(farm.command("commander", *command, "--json"))
    return found[key] if key else found  # type: ignore[no-any-return]  # JSON


def say(text: str) -> None:
    if text:
        print(text, flush=True)  # noqa: T201  # it is a program for a terminal


def follow(farm: Farm) -> None:
    """Until Ctrl-C: the live table on a terminal, log lines without one."""
    if farm.live:
        say("")
        watching = subprocess.Popen([BIN / "commander", "watch"], env=farm.environment, cwd=ROOT)
        try:
            while watching.poll() is None:
                farm.check()
                time.sleep(0.5)
        finally:
            if watching.poll() is None:
                watching.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    watching.wait(5)
    else:
        say("the farm runs; Ctrl-C or SIGTERM stops it")
        while True:
            farm.check()
            time.sleep(0.5)


@contextlib.contextmanager
def stopped_by_signal() -> Iterator[None]:
    """SIGTERM and SIGINT both end the farm in order."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # one is enough
        say("\nstopping")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "demo"])
    parser.add_argument("--ports-from", type=int, default=PORTS_FROM, help="the first of three ports of a new farm")
    asked = parser.parse_args()
    home = Path(os.environ.get("GARRISON_HOME") or ROOT / "farm").absolute()
    farm = Farm(home, live=sys.stdout.isatty(), ports_from=asked.ports_from)
    try:
        with stopped_by_signal():
            begin(farm)
            if asked.what == "demo":
                from tools.demo import furnish

                furnish(farm)
            say(f"farm: {home}    commands: GARRISON_HOME={home} {BIN / 'commander'} --help")
            follow(farm)
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # it is a program for a terminal
        return 1
    finally:
        farm.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
