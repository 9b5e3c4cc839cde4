"""What `make fuzz` does with fuzz_asic for hours, for seconds: bent fixtures, and the worst that fits into an answer."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentry_asic.table import MAKES, Make
from tests.fuzz import fuzz_asic
from tests.fuzz.bending import bent
from tests.fuzz.fuzz_asic import MARK, Device, look
from tests.fuzz.memory_network import MemoryNetwork

SEEDS = dict(fuzz_asic.seeds())
FEED = fuzz_asic.make()
MOST_MEMORY = 64 << 20
MOST_CPU_S = 3.0
"""Far above what a busy machine takes, far below what anything quadratic does."""


def worst(size: int) -> dict[str, bytes]:
    """Answers of about so many bytes that once cost more than they should, here or elsewhere."""
    return {
        "nul": b"\x00" * size,
        "deep": b"[" * size,
        "deep objects": b'{"a":' * (size // 5),
        "empty lists": b"[" + b"[]," * (size // 3) + b"[]]",
        "rows": b'{"STATS":[' + b'{"a":1},' * (size // 8) + b"{}]}",
        "no commas": b'{"STATS":[' + b'{"a":1}' * (size // 7) + b"]}",
        "names": b"{" + b",".join(b'"%d":"x"' % i for i in range(size // 12)) + b"}",
        "one string": b'{"STATS":[{"MM ID0":"' + b"a" * size + b'"}]}',
        "brackets": b'{"STATS":[{"MM ID0":"' + b"a[" * (size // 4) + b'","HBinfo":"' + b"'HB0':{" * (size // 14) + b'"}]}',
        "pairs": b'{"STATS":[{"MM ID0":"' + b"ab[1]" * (size // 5) + b'"}]}',
        "text": b"STATUS=S,When=1," + b"A=[," * (size // 4),
        "pipes": b"STATUS=S|" + b"|A," * (size // 3),
        "spaces": b"{" + b" " * size + b"}",
        "one number": b'{"a":' + b"9" * min(size, 4000) + b"}",
        "html": b"<html>" + b"<title>" * (size // 7),
        "escapes": b'{"STATS":[]}{"a\\"' + b'\\"' * (size // 2),
        "escapes and lists": b"[" + b"[]," * 40 + b'"' + b'\\"' * (size // 2) + b"\\",
        "cut": b'{"STATS":[{"a":"' + b"x" * size,
    }


@settings(max_examples=250, deadline=None)
@given(name=st.sampled_from(sorted(SEEDS)), dice=st.randoms(use_true_random=False))
def test_bent_answers_give_values_or_a_fault(name: str, dice: random.Random) -> None:
    """Of every make: read, known, ordered."""
    FEED(bent(SEEDS[name], dice))


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_what_is_bent_was_whole(name: str) -> None:
    """Each seed is recognised and read by its own make, else bending it would prove nothing. Earlier findings pass."""
    FEED(SEEDS[name])
    if name.startswith("found-"):
        return
    head, *parts = SEEDS[name].split(MARK)
    pieces = [part.partition(b"\n") for part in parts]
    network = MemoryNetwork(Device({told.decode(): body for told, _, body in pieces}))
    known, reading = network.run_until_complete(look(next(make for make in MAKES if make.name == head.decode())))
    network.close()
    assert known
    assert reading is not None


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.name)
def test_the_worst_costs_a_make_little(make: Make) -> None:
    """As the answer to every question that it has: one device must not take the time of all others."""
    network = MemoryNetwork(Device({}))
    for name, body in worst(20_000).items():
        network.server = Device({}, body)
        begun_s = time.process_time()
        network.run_until_complete(look(make))
        spent_s = time.process_time() - begun_s
        assert network.failed is None, name
        assert spent_s < MOST_CPU_S, f"{name}: {spent_s:.1f} s"
    network.close()


def test_the_worst_is_mended_or_refused_in_little_memory() -> None:
    """Of as many bytes as an answer may have."""
    for name, body in worst(1 << 20).items():
        begun_s = time.process_time()
        tracemalloc.start()
        try:
            fuzz_asic.check_answer(body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MOST_MEMORY, f"{name}: {peak >> 20} MB"
        assert time.process_time() - begun_s < 3 * MOST_CPU_S, name
