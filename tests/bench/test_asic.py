"""How bench_asic tells a complete reading from a correct one."""

from __future__ import annotations

from typing import Any

import pytest

from bench.bench_asic import Side, is_complete, is_correct
from tests.simulators.antminer_answers import SPECS


def reading(model: str, **changed: Any) -> dict[str, Any]:
    spec = SPECS[model]
    boards = [[60.0, spec.chips]] * spec.boards
    told = {"hashrate_hs": spec.nominal_hs, "uptime_s": 3700, "fans": [5000] * len(spec.fans), "boards": boards}
    return told | {"users": ["factory.worker"]} | changed


@pytest.mark.parametrize(
    ("changed", "complete", "correct"),
    [
        ({}, True, True),
        ({"hashrate_hs": None}, False, False),
        ({"hashrate_hs": 1e9}, True, False),
        ({"uptime_s": None}, False, False),
        ({"uptime_s": 0}, True, False),
        ({"fans": []}, False, False),
        ({"fans": [0, 0, 0, 0]}, True, False),
        ({"fans": [5000] * 8}, True, False),
        ({"boards": []}, False, False),
        ({"boards": [[60.0, 126], [60.0, 126], [None, 126]]}, False, False),
        ({"boards": [[60.0, 126]] * 2}, True, False),
        ({"boards": [[60.0, 76]] * 3}, True, False),
        ({"users": []}, False, False),
        ({"users": ["somebody.else"]}, True, False),
    ],
)
def test_a_reading_is_held_against_the_device(changed: dict[str, Any], complete: bool, correct: bool) -> None:
    """Missing is not complete, wrong is not correct."""
    told = reading("S19j Pro", **changed)
    assert (is_complete(told), is_correct(told, 0)) == (complete, correct)


def test_every_fourth_is_another_model() -> None:
    """As the farm makes them. What was not read at all counts as neither."""
    assert is_correct(reading("S9"), 3)
    assert not is_correct(reading("S9"), 4)
    side = Side("x")
    side.took("look", 1.0, [reading("S19j Pro"), None, reading("S9"), reading("S9")])
    assert (side.complete["look"], side.correct["look"]) == (3, 2)
