"""Every fuzz target is run here as well, briefly and without atheris, so that it cannot rot."""

import importlib
import random
from pathlib import Path

import pytest

from tests.fuzz.driver import Feed

TARGETS = sorted(path.stem for path in Path(__file__).parent.glob("fuzz_*.py"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_noise(name: str) -> None:
    """The same seed each time: empty, short, long, and bent copies of one another."""
    feed: Feed = importlib.import_module(f"tests.fuzz.{name}").make()
    dice = random.Random(20)
    feed(b"")
    for _ in range(400):
        noise = bytearray(dice.randbytes(dice.choice([1, 8, 40, 300])))
        feed(bytes(noise))
        noise[dice.randrange(len(noise))] ^= 1 << dice.randrange(8)
        feed(bytes(noise))
