"""A state folder whose miners are ended after the test, whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sentry_rig.stands import sweep


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "sentry-rig"
    folder.mkdir()
    yield folder
    sweep(folder)
