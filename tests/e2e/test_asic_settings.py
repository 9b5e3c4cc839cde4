"""Settings of ASICs by the command line: a Whatsminer's mode, limit and name, a power target, and what is refused where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.hall import Hall, hall_of
from tests.e2e.processes import Farm, farm_at, until
from tests.ports import closed_port
from tests.simulators.braiins import Braiins
from tests.simulators.whatsminer import Whatsminer

pytestmark = pytest.mark.timeout(300)


@dataclass
class Row:
    """Two devices in the hall's loop; the farm knows them as `wm` and `bos`."""

    hall: Hall
    wm: Whatsminer
    bos: Braiins


@pytest.fixture(scope="module")
def row() -> Iterator[Row]:
    with hall_of() as hall:
        wm, bos = Whatsminer("v2"), Braiins("rest")
        hall.do(wm.__aenter__())
        hall.do(bos.__aenter__())
        yield Row(hall, wm, bos)
        hall.do(bos.__aexit__())
        hall.do(wm.__aexit__())


@pytest.fixture(scope="module")
def farm(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm_at(tmp_path_factory.mktemp("settings")) as farm:
        farm.enrol("asic")
        farm.start_sentry("asic")
        sentry = farm.sentry("asic")["id"]
        for name, api_port, http_port in (("wm", row.wm.api_port, closed_port()), ("bos", row.bos.port, row.bos.web.port)):
            where = [f"127.0.0.1:{api_port}", "--http-port", str(http_port)]
            farm.ask("commander", "devices", "add", *where, "--sentry", sentry, "--name", name, "--simulated")
        for name in ("wm", "bos"):
            farm.until_device(name, "mining", "starting")
        yield farm


def test_set_and_read_back(farm: Farm, row: Row) -> None:
    """Each is set on the device, and the order says what the device told afterwards; the same again sends nothing."""
    for kind, name, option, value, text in (
        ("set_power_mode", "wm", "--mode", "low", "power mode is low"),
        ("set-power-limit", "wm", "--limit-w", "3000", "power limit is 3000 W"),
        ("set_hostname", "wm", "--hostname", "row-1", "host name is row-1"),
        ("set_power_limit", "bos", "--limit-w", "2500", "power limit is 2500 W"),
    ):
        order = farm.ordered("order", kind, name, option, value)
        assert order["state"] == "succeeded", order
        assert text in order["text"]
        assert order["result"]["changed"] == "true"
        assert [report["state"] for report in order["reports"]] == ["accepted", "started", "verifying", "succeeded"]
    assert (row.wm.power_mode, row.wm.power_limit_w, row.wm.hostname, row.bos.target_w) == ("Low", 3000, "row-1", 2500)
    again = farm.ordered("order", "set_power_mode", "wm", "--mode", "low")
    assert (again["state"], again["result"]["changed"]) == ("succeeded", "false")
    assert row.wm.orders.count("mode") == 1
    until("the fleet shows the mode", lambda: farm.get("/devices/wm")["mode"] == "low")


def test_what_is_refused(farm: Farm, row: Row) -> None:
    """What the device cannot at all, before it is sent; what makes no sense, by the commander; what is out of range, by it."""
    before = len(row.wm.orders)
    said = farm.refused("commander", "order", "set_fan", "wm", "--fan", "60")
    assert "does not take set_fan" in said
    assert "set_power_mode" in said, "what it takes is the hint"
    assert "does not take" in farm.refused("commander", "order", "set_power_mode", "bos", "--mode", "low")
    for words in (
        ["set_power_limit", "wm", "--limit-w", "0"],
        ["set_power_mode", "wm"],
        ["set_hostname", "wm", "--hostname", "a b"],
        ["set_hostname", "wm", "bos", "--hostname", "both"],
        ["reboot", "wm", "--mode", "low"],
    ):
        farm.refused("commander", "order", *words)
    order = farm.ordered("order", "set_power_mode", "wm", "--mode", "turbo")
    assert (order["state"], order["fault"]) == ("failed", "bad_input")
    assert "low, normal, high" in order["text"]
    order = farm.ordered("order", "set_power_limit", "bos", "--limit-w", "9000")
    assert "from 1200 W to 3800 W" in order["text"]
    assert len(row.wm.orders) == before


def test_a_sentry_that_was_killed_in_the_middle(farm: Farm, row: Row) -> None:
    """The order was sent and has had no effect yet: the next sentry reads and does not send it a second time."""
    sent = row.wm.orders.count("mode")
    row.wm.faults.ignore_settings = True
    farm.ask("commander", "order", "set_power_mode", "wm", "--mode", "high", "--wait", "0")
    open_order = farm.get("/actions", state="open")["actions"][0]["id"]
    until("it was sent", lambda: farm.get(f"/actions/{open_order}")["state"] == "verifying")
    farm.kill("sentry-asic")
    row.wm.power_mode = "High"
    row.wm.faults.ignore_settings = False
    farm.start_sentry("asic")
    until("it has ended", lambda: farm.get(f"/actions/{open_order}")["final"])
    order = farm.get(f"/actions/{open_order}")
    assert (order["state"], "power mode is high" in order["text"]) == ("succeeded", True), order
    assert row.wm.orders.count("mode") == sent + 1
