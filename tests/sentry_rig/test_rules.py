"""The decisions about a rig, as tables of cases."""

from dataclasses import replace

import pytest

from garrison.words import DeviceState
from sentry_rig.rules import Budget, RigFacts, Trial, Verdict, fingerprint, hashing, judge_state, judge_trial, may_restart

UP = RigFacts(has_sheet=True, alive=True, api=True, paused=False, hashrate_hs=4000, since_start_s=600)
MIN = 60_000


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (RigFacts(has_sheet=False), DeviceState.IDLE),
        (RigFacts(has_sheet=False, cards_missing=True), DeviceState.IDLE),
        (UP, DeviceState.MINING),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=4000, since_start_s=5), DeviceState.MINING),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=4000, floor_hs=5000, since_start_s=600), DeviceState.DEGRADED),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=4000, floor_hs=5000, since_start_s=60), DeviceState.STARTING),
        (
            RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=4000, since_start_s=600, cards_missing=True),
            DeviceState.DEGRADED,
        ),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=None, since_start_s=60), DeviceState.STARTING),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=None, since_start_s=600), DeviceState.IDLE),
        (RigFacts(has_sheet=True, alive=True, api=True, hashrate_hs=0.0, since_start_s=600), DeviceState.IDLE),
        (RigFacts(has_sheet=True, alive=True, api=False, since_start_s=60), DeviceState.STARTING),
        (RigFacts(has_sheet=True, alive=True, api=False, since_start_s=600), DeviceState.DEGRADED),
        (RigFacts(has_sheet=True, alive=False), DeviceState.STARTING),
        (RigFacts(has_sheet=True, alive=False, held=True), DeviceState.IDLE),
        (RigFacts(has_sheet=True, pause_wanted=True, alive=False), DeviceState.PAUSED),
        (RigFacts(has_sheet=True, pause_wanted=True, alive=True, api=True, paused=True), DeviceState.PAUSED),
        (RigFacts(has_sheet=True, alive=True, api=True, paused=True, hashrate_hs=0.0, since_start_s=600), DeviceState.PAUSED),
        # asked to pause and does not: it mines, whatever we wish
        (
            RigFacts(has_sheet=True, pause_wanted=True, alive=True, api=True, paused=False, hashrate_hs=9, since_start_s=600),
            DeviceState.MINING,
        ),
        (RigFacts(has_sheet=True, pause_wanted=True, alive=True, api=False, since_start_s=600), DeviceState.DEGRADED),
    ],
)
def test_state(facts: RigFacts, state: DeviceState) -> None:
    """Each mix of the three facts of health has its word; "no figure" never reads as zero, nor as mining."""
    assert judge_state(facts) is state


@pytest.mark.parametrize(
    ("hashrate_hs", "floor_hs", "is_hashing"), [(None, 0, None), (0.0, 0, False), (1, 0, True), (9, 10, False), (10, 10, True)]
)
def test_hashing(hashrate_hs: float | None, floor_hs: float, is_hashing: bool | None) -> None:
    """The third fact of health is not known without a figure."""
    assert hashing(hashrate_hs, floor_hs) is is_hashing


NOW = 100 * MIN
BUDGET = Budget(restarts_max=3, window_s=1800, hold_s=3600, backoff_s=2)


@pytest.mark.parametrize(
    ("restarts", "crashed", "verdict"),
    [
        ([], 0, Verdict(0, held=False)),  # never ran here
        ([], NOW, Verdict(2, held=False)),
        ([], NOW - 1500, Verdict(0.5, held=False)),
        ([NOW - MIN], NOW, Verdict(4, held=False)),
        ([NOW - 2 * MIN, NOW - MIN], NOW, Verdict(8, held=False)),
        ([NOW - 3 * MIN, NOW - 2 * MIN, NOW - MIN], NOW, Verdict(3600, held=True)),
        ([NOW - 3 * MIN, NOW - 2 * MIN, NOW - MIN], NOW - 59 * MIN, Verdict(60, held=True)),
        ([NOW - 3 * MIN, NOW - 2 * MIN, NOW - MIN], NOW - 60 * MIN, Verdict(0, held=False)),
        ([NOW - 40 * MIN, NOW - 2 * MIN, NOW - MIN], NOW, Verdict(8, held=False)),  # the first is out of the window
        ([NOW + 900 * MIN] * 3, NOW, Verdict(3600, held=True)),  # the clock was set back: counted as now
        ([], NOW + 900 * MIN, Verdict(2, held=False)),
    ],
)
def test_restart_budget(restarts: list[int], crashed: int, verdict: Verdict) -> None:
    """Backoff doubles, the budget holds, the hold ends, and a clock that jumps neither frees nor locks for ever."""
    assert may_restart(restarts, crashed, NOW, BUDGET) == verdict


def test_no_restarts_at_all() -> None:
    """A budget of none means: hold at once."""
    assert may_restart([], NOW, NOW, Budget(restarts_max=0)).held


GOOD = Trial(
    ("pool.example:1",),
    alive=True,
    api=True,
    pool="Pool.Example:1",
    connected=True,
    paused=False,
    hashrate_hs=5,
    accepted=0,
    rejected=0,
)


@pytest.mark.parametrize(
    ("trial", "verdict", "word"),
    [
        (GOOD, "good", "mines on"),
        (Trial(("a:1",), alive=False), "wait", "does not run"),
        (Trial(("a:1",), alive=True, crashes=3), "bad", "ended by itself"),
        (Trial(("a:1",), alive=True), "wait", "API"),
        (Trial(("a:1",), alive=True, api=True, hashrate_hs=5), "wait", "no connection"),
        (Trial(("a:1",), alive=True, api=True, pool="a:1", connected=False, hashrate_hs=5), "wait", "no connection"),
        (Trial(("a:1",), alive=True, api=True, pool="donate:1", connected=True, hashrate_hs=5), "wait", "none of the sheet's"),
        (Trial(("a:1",), alive=True, api=True, pool="a:1", connected=True, paused=True, hashrate_hs=5), "wait", "paused"),
        (Trial(("a:1",), alive=True, api=True, pool="a:1", connected=True, hashrate_hs=None), "wait", "does not hash"),
        (Trial(("a:1",), alive=True, api=True, pool="a:1", connected=True, hashrate_hs=5, floor_hs=9), "wait", "does not hash"),
        (
            Trial(("a:1",), alive=True, api=True, pool="a:1", connected=True, hashrate_hs=5, accepted=0, rejected=2),
            "wait",
            "rejects",
        ),
        (
            Trial(("a:1",), alive=True, api=True, pool="a:1", connected=True, hashrate_hs=5, accepted=1, rejected=2),
            "good",
            "mines on",
        ),
        (replace(GOOD, hashing_s=10, patience_s=60), "wait", "no share yet"),
        (replace(GOOD, hashing_s=60, patience_s=60), "good", "mines on"),
        (replace(GOOD, hashing_s=0, patience_s=60, accepted=1), "good", "mines on"),
        (replace(GOOD, hashing_s=60, patience_s=60, rejected=1), "wait", "rejects"),
    ],
)
def test_trial(trial: Trial, verdict: str, word: str) -> None:
    """A sheet is good when a read shows it connected to one of its own pools and hashing."""
    assert judge_trial(trial)[0] == verdict
    assert word in judge_trial(trial)[1]


def test_fingerprint_changes_with_each_part_and_only_then() -> None:
    """What would run the same is the same; moving a word from one argument to the next is not."""
    first = fingerprint("xmrig", "6.26.0", "AB", "xmrig", ["-o", "a:1"])
    assert first == fingerprint("xmrig", "6.26.0", "ab", "xmrig", ["-o", "a:1"])
    others = [
        fingerprint("xmrig2", "6.26.0", "ab", "xmrig", ["-o", "a:1"]),
        fingerprint("xmrig", "6.27.0", "ab", "xmrig", ["-o", "a:1"]),
        fingerprint("xmrig", "6.26.0", "ac", "xmrig", ["-o", "a:1"]),
        fingerprint("xmrig", "6.26.0", "ab", "bin/xmrig", ["-o", "a:1"]),
        fingerprint("xmrig", "6.26.0", "ab", "xmrig", ["-oa:1"]),
        fingerprint("xmrig", "6.26.0", "ab", "xmrig", ["-o", "a:", "1"]),
    ]
    assert len({first, *others}) == 7
