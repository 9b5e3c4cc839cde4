"""Verify and repair while the commander runs, file by file, for whoever waits on the other side of HTTP.

One at a time: both read the whole history.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from commander.telemetry import verify
from commander.telemetry.repair import Mended, why
from commander.telemetry.seal import Pace
from commander.telemetry.service import Telemetry
from commander.telemetry.verify import Report
from garrison.faults import Conflict, Fault, Unavailable

Row = dict[str, Any]

BEAT_S = 2.0
"""A sign of life at least so often: whoever waits sees how far it is, and gives up only when there is none."""

LISTED = 100
"""So many damaged rows of a file are told one by one; how many there are is told too."""


class Checks:
    """`named`: device key to id and name."""

    def __init__(self, telemetry: Telemetry, named: Callable[[], Mapping[int, tuple[int, str]]]) -> None:
        self._telemetry = telemetry
        self._named = named
        self._one = asyncio.Lock()

    def verify(self) -> AsyncIterator[Row]:
        """{"progress"} now and then, {"file"} for each, {"summary"} at the end; {"fault"} where it ends early. Conflict: one is
        under way."""
        self._refuse_second()
        return self._alone(self._verify)

    def repair(self) -> AsyncIterator[Row]:
        """The same, with {"repaired"} for each file. What is whole is only read."""
        self._refuse_second()
        return self._alone(self._repair)

    def _refuse_second(self) -> None:
        if self._one.locked():
            raise Conflict("the history is being verified or repaired already", hint="wait for its end")

    async def _alone(self, work: Callable[[threading.Event], AsyncIterator[Row]]) -> AsyncIterator[Row]:
        stop = threading.Event()
        try:
            async with self._one:
                async for row in work(stop):
                    yield row
        except Fault as fault:
            yield {"fault": {"code": fault.code, "text": fault.text, "hint": fault.hint}}
        finally:
            stop.set()

    async def _verify(self, stop: threading.Event) -> AsyncIterator[Row]:
        reports: list[Report] = []
        for name in verify.files(self._folder):
            report = Report(name)
            async for beat in _beating(self._look(report, stop), partial(_progress, report)):
                yield beat
            if (self._folder / name).exists():
                reports.append(report)
                yield {"file": self._row(report)}
        yield {"summary": _summary(reports)}

    async def _repair(self, stop: threading.Event) -> AsyncIterator[Row]:
        mended: list[Mended] = []
        for name in verify.files(self._folder):
            report = Report(name)
            async for beat in _beating(self._look(report, stop), partial(_progress, report)):
                yield beat
            found = [Mended(name, whole=report.whole, why=why(report))]
            if not report.whole and not report.unchecked:
                async for beat in _beating(self._mend(found, stop), partial(_progress, Report(name))):
                    yield beat
            mended += found
            yield {"repaired": asdict(found[0])}
        await self._telemetry.check()
        yield {"summary": summary_of(mended)}

    @property
    def _folder(self) -> Path:
        return self._telemetry.db.path.parent

    async def _look(self, report: Report, stop: threading.Event) -> None:
        try:
            await asyncio.to_thread(verify.file, self._folder, report.file, stop, Pace(), report)
        except Unavailable:
            if (self._folder / report.file).exists():  # else its time is over
                raise

    async def _mend(self, found: list[Mended], stop: threading.Event) -> None:
        found[0] = await self._telemetry.mend(found[0].file, stop)

    def _row(self, report: Report) -> Row:
        named = self._named() if report.damaged else {}
        damaged = [
            {"what": one.what, "device": named.get(one.key, (None, None))[1], "at_ms": one.at_ms or None, "text": one.text}
            for one in report.damaged[:LISTED]
        ]
        sizes = {name: getattr(report, name) for name in _SIZES}
        told = {"damaged": len(report.damaged), "structure": report.structure, "unchecked": report.unchecked}
        return {"file": report.file, **sizes, "whole": report.whole, **told, "list": damaged}


_SIZES = ("bytes", "frames", "blocks", "rows", "totals")


def summary_of(mended: list[Mended]) -> Row:
    """Of a repair."""
    return {
        "files": len(mended),
        "repaired": sum(bool(one.did) for one in mended),
        "set_aside": sum(one.set_aside for one in mended),
        "made_again": sum(one.made_again for one in mended),
        "whole": all(one.whole for one in mended),
    }


def _summary(reports: list[Report]) -> Row:
    sizes = {name: sum(getattr(one, name) for one in reports) for name in _SIZES}
    told = {"damaged": sum(len(one.damaged) for one in reports), "damaged_files": sum(not one.whole for one in reports)}
    return {"files": len(reports), **sizes, **told, "whole": all(one.whole for one in reports)}


def _progress(report: Report) -> Row:
    return {"progress": {"file": report.file, "blocks": report.blocks, "frames": report.frames}}


async def _beating(work: Coroutine[Any, Any, None], beat: Callable[[], Row]) -> AsyncIterator[Row]:
    """Until the work is done. Fault: what it raises."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=BEAT_S))[0]:
            yield beat()
        await task
    finally:
        task.cancel()
