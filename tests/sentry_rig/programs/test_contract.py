"""What every driver of the table must do, shown on its own fixtures: a driver without a fixture folder fails here."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from garrison.faults import BadAnswer, BadInput, NotSupported
from garrison.model import PoolOrder
from sentry_rig.programs.program import Api, RawLook
from sentry_rig.programs.table import PROGRAMS, program

FIXTURES = Path(__file__).parents[2] / "fixtures" / "programs"
CASES = [
    (name, file.name.removesuffix(".main.json")) for name in PROGRAMS for file in sorted((FIXTURES / name).glob("*.main.json"))
]
WRONG: tuple[object, ...] = (None, "x", -1, 1e400, [], {}, True, 2**70)
POOLS = (
    PoolOrder("stratum+tcp://pool.farm.example:3333", "wallet.rig1"),
    PoolOrder("second.farm.example:443", "wallet.rig1", "secret"),
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_has_fixtures(name: str) -> None:
    """A driver is a file, a line in the table and a fixture folder of at least one mining answer."""
    assert any(case == name for case, _ in CASES)
    assert PROGRAMS[name].name == name


@pytest.mark.parametrize(("name", "case"), CASES)
def test_parses_as_expected(name: str, case: str) -> None:
    """Base units, null windows as None, cards by PCI address."""
    folder = FIXTURES / name
    raw = RawLook((folder / f"{case}.main.json").read_bytes(), (folder / f"{case}.parts.json").read_bytes())
    assert json.loads(json.dumps(asdict(PROGRAMS[name].parse(raw)))) == json.loads((folder / f"{case}.expected.json").read_bytes())


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"<html>no</html>", b'{"hash', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000], ids=range(9)
)
def test_says_unreadable_instead_of_zero(name: str, body: bytes) -> None:
    """What is no answer of this program is BadAnswer, whatever it is; a broken second answer leaves the first standing."""
    with pytest.raises(BadAnswer):
        PROGRAMS[name].parse(RawLook(body))
    whole = next((FIXTURES / name).glob("*.main.json")).read_bytes()
    assert not PROGRAMS[name].parse(RawLook(whole, body)).parts


@pytest.mark.parametrize(("name", "case"), CASES)
def test_no_damage_makes_the_parser_fall_over(name: str, case: str) -> None:
    """Every value replaced by every kind of wrong one: an answer or BadAnswer, and no figure that is not finite."""
    whole = json.loads((FIXTURES / name / f"{case}.main.json").read_bytes())
    for path in _paths(whole):
        for wrong in WRONG:
            damaged = json.loads(json.dumps(whole))
            _put(damaged, path, wrong)
            body = json.dumps(damaged).replace("Infinity", "1e999").encode()
            try:
                reading = PROGRAMS[name].parse(RawLook(body))
            except BadAnswer:
                continue
            assert reading.hashrate_hs is None or 0 <= reading.hashrate_hs < 2**63


@pytest.mark.parametrize("name", PROGRAMS)
def test_never_starts_without_own_pools(name: str) -> None:
    """No pool, or a pool without its user, is refused before there is a command line."""
    with pytest.raises(BadInput):
        PROGRAMS[name].arguments([], [], "rx/0")


@pytest.mark.parametrize("name", PROGRAMS)
def test_command_holds_the_sheets_pools_and_our_api(name: str) -> None:
    """The pools come in their order, the guard sees each user once, the API listens on loopback where we said."""
    driver = PROGRAMS[name]
    arguments = driver.arguments([], POOLS, "rx/0")
    assert [(pool.url, pool.user) for pool in driver.pools(arguments)] == [(pool.url, pool.user) for pool in POOLS]
    assert [pool.place for pool in driver.pools(arguments)] == ["pool.farm.example:3333", "second.farm.example:443"]
    assert driver.payouts(arguments) == ["wallet.rig1"]
    command = driver.command(Path("/opt/program"), arguments, Api(29123, "0123abcd"))
    assert command[0] == "/opt/program"
    assert any("29123" in part for part in command)
    assert any("127.0.0.1" in part for part in command)
    assert "0123abcd" not in repr(Api(29123, "0123abcd"))


def test_an_unknown_program_is_refused_by_name() -> None:
    """The answer names what there is."""
    with pytest.raises(NotSupported, match="xmrig"):
        program("no-such-miner")


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _paths(inner, (*path, key))
    return found


def _put(value: object, path: tuple[str | int, ...], wrong: object) -> None:
    for key in path[:-1]:
        value = value[key]  # type: ignore[index]  # JSON of any shape
    value[path[-1]] = wrong  # type: ignore[index]  # the same
