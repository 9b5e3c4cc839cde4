"""docs/asic-support.md is of today, and what it says of each make's evidence holds."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from garrison.words import ActionKind
from sentry_asic.make import Place
from sentry_asic.table import MAKES, Make, identify
from tests.contract.test_asic_makes import FIXTURES, RECORDED, answers, replay
from tools import asic_support

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
each_make = pytest.mark.parametrize("make", MAKES, ids=lambda make: make.name)


def orders_in(make: str) -> set[ActionKind]:
    """Every kind of order that the files of this make's driver name."""
    files = [path for path in (ROOT / "sentry_asic" / "makes").glob("*.py") if path.stem.split("_")[0] == make]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    named = [node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ActionKind"]
    return {ActionKind[name] for name in named}


async def capabilities_of(make: Make) -> list[set[ActionKind]]:
    """Of a driver that knows nothing yet, and after it read each of its fixtures."""
    found = [set(make.driver(Place("127.0.0.1")).capabilities)]
    for device in asic_support.devices_of(make.name):
        folder = FIXTURES / make.name / device
        async with replay(answers(folder / "api"), answers(folder / "web")) as (api_port, http_port):
            driver = await identify(Place("127.0.0.1", api_port, http_port), make.name)
            await driver.read(slow=True)
            found.append(set(driver.capabilities))
            await driver.close()
    return found


def test_page_is_of_today() -> None:
    """Letter by letter."""
    assert asic_support.PAGE.read_text(encoding="utf-8") == asic_support.page(), "run `make docs-asic` and commit what it writes"


@each_make
async def test_every_order_of_a_make_has_its_evidence(make: Make) -> None:
    """Exactly those that its driver takes; which of them only some models take is said as well, and only of those."""
    known = asic_support.evidence_of(make.name)
    assert set(known.orders) == orders_in(make.name)
    capabilities = await capabilities_of(make)
    assert set().union(*capabilities) <= set(known.orders)
    assert set(known.depends) == {kind for kind in known.orders if not all(kind in one for one in capabilities)}
    columns = [*asic_support.ORDERS, *asic_support.SETS]
    assert list(known.orders) == [kind for kind in columns if kind in known.orders], "in the order of the columns"


@each_make
def test_recorded_is_what_a_test_reads(make: Make) -> None:
    """A make is recorded when a test of it reads a recording, and its folder is there where recordings are."""
    known = asic_support.evidence_of(make.name)
    assert ("recorded" in {known.reading, *known.orders.values()}) == bool(known.recordings)
    tests = [TESTS / "contract" / "test_asic_makes.py", *(TESTS / "sentry_asic" / "makes").glob(f"test_{make.name}*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert [name for name in known.recordings if f'"{name}"' not in text] == []
    if RECORDED.is_dir():
        assert [name for name in known.recordings if not (RECORDED / name).is_dir()] == []


@pytest.mark.parametrize(
    "text",
    [
        'sources = "x"',
        'sources = "x"\nreading = "seen"',
        'sources = "x"\nreading = "reported"\n[orders]\nfly = "reported"',
        'sources = "x"\nreading = "reported"\nnote = "x"',
    ],
)
def test_bad_evidence_is_refused(text: str) -> None:
    """Nothing left out, no other words, no order that there is not."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(text, type=asic_support.Evidence)
