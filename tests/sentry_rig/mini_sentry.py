"""A rig sentry without a commander, for tests that kill it: `python -m tests.sentry_rig.mini_sentry STATE [SHEET HOST]`.

With a sheet it applies it, as if ordered. Each thing that happens is a line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from garrison.clock import SystemClock
from garrison.frame import Sample
from garrison.model import Device
from garrison.words import ActionKind
from sentry_rig.post import RigPost
from tests.sentry_rig.stands import MACHINE, Steps, order, quick, sheet


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Lines:
    async def look(self, samples: Sequence[Sample]) -> None:
        values = samples[-1].values
        say(look={metric: values.get((metric, "")) for metric in ("state", "miner_alive", "hashrate_hs")})

    async def event(
        self, kind: str, text: str, *, device: str = "", severity: str = "info", detail: Mapping[str, str] | None = None
    ) -> None:
        say(event=kind, text=text, **(detail or {}))

    def roster(self, devices: Sequence[Device], gone: Sequence[str] = ()) -> None:
        say(sheet=devices[-1].sheet_id)


async def main(state: Path, given: Sequence[str]) -> None:
    post = RigPost(quick(), state, SystemClock(), MACHINE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(post.run(Lines()))
        if given:
            name, host = given
            outcome = await post.perform(order(ActionKind.APPLY_FLIGHT_SHEET, sheet(name, host)), Steps())
            say(outcome=outcome.state.word, text=outcome.text)


if __name__ == "__main__":
    say(pid=os.getpid())
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
