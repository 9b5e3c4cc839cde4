"""XMRig: which arguments an owner may give, what the guard is shown, and the recorded answers of the real program."""

from pathlib import Path

import pytest

from garrison.faults import BadAnswer, BadInput, NotAllowed
from garrison.model import PoolOrder
from sentry_rig.pci import pci_address
from sentry_rig.programs.program import RawLook
from sentry_rig.programs.xmrig import XMRig

RECORDED = Path(__file__).parents[4] / "shared" / "recorded" / "xmrig-6.26.0"
XMRIG = XMRig()
POOL = (PoolOrder("pool.farm.example:3333", "wallet.rig1"),)


@pytest.mark.parametrize(
    "given",
    [
        ["-c", "/tmp/other.json"],
        ["--config=/tmp/other.json"],
        ["-B"],
        ["--background"],
        ["--http-host", "0.0.0.0"],
        ["--http-port=80"],
        ["--http-access-token=x"],
        ["--http-enabled"],
        ["--api-id=x"],
        ["-l", "/etc/passwd"],
        ["-S"],
        ["--cuda-loader=/tmp/evil.so"],
        ["--self-select=http://pool.farm.example"],
        ["--stress"],
        ["--bench=1M"],
        ["--dry-run"],
        ["--data-dir=/tmp"],
    ],
    ids=" ".join,
)
def test_refuses_what_takes_the_program_out_of_our_hands(given: list[str]) -> None:
    """API, config, log, daemonising, foreign libraries and work that is not mining are not the sheet's to give."""
    with pytest.raises(NotAllowed):
        XMRIG.arguments(given, POOL, "rx/0")


@pytest.mark.parametrize(
    "given",
    [
        ["--conf", "/tmp/x"],  # getopt_long would take it for --config
        ["--http-acc=x"],
        ["--backg"],
        ["--us", "thief"],
        ["-kB"],  # two options in one
        ["-kc", "/tmp/x"],
        ["pool.farm.example:3333"],
        ["--"],
        ["-"],
        ["-o"],
        ["--url"],
        ["--tls=yes"],
        ["-u", "thief"],  # a user without its pool
        ["-o", "pool.farm.example:3333"],  # a pool without its user
        ["-o", "a.example:1", "-o", "b.example:2", "-u", "w"],
        ["-o", "pool.farm.example", "-u", "w"],  # XMRig would not take it and fall back to a config file
        ["-o", "http://pool.farm.example:80", "-u", "w"],
        ["-o", "pool.farm.example:0", "-u", "w"],
        ["-o", "pool.farm.example:99999", "-u", "w"],
        ["-o", "user@pool.farm.example:3333", "-u", "w"],
        ["--no-such-option"],
        ["-z"],
    ],
    ids=" ".join,
)
def test_refuses_what_it_cannot_read(given: list[str]) -> None:
    """What the driver does not know letter by letter it could not show to the guard."""
    with pytest.raises(BadInput):
        XMRIG.arguments(given, POOL, "rx/0")


def test_arguments_with_their_own_pools_are_left_alone() -> None:
    """The sheet's pools are added only where the arguments name none; the algorithm only where none is named."""
    given = ["-o", "a.example:1111", "-u", "w1.rig", "--tls", "-o", "[2001:db8::7]:2222", "-O", "w2:pw", "-t", "4", "-k"]
    complete = XMRIG.arguments(given, POOL, "rx/0")
    assert complete == ["-a", "rx/0", *given]
    assert [pool.place for pool in XMRIG.pools(complete)] == ["a.example:1111", "2001:db8::7:2222"]
    assert XMRIG.arguments(["--coin=monero"], POOL, "rx/0")[:1] == ["--coin=monero"]
    assert XMRIG.arguments(["-arx/wow"], POOL, "rx/0")[:1] == ["-arx/wow"]


@pytest.mark.parametrize(
    ("given", "users"),
    [
        (["-o", "a.example:1", "-u", "w1"], ["w1"]),
        (["-oa.example:1", "-uw1"], ["w1"]),
        (["--url=a.example:1", "--user=w1"], ["w1"]),
        (["--url", "a.example:1", "--user", "w1"], ["w1"]),
        (["-o", "a.example:1", "-O", "w1:pass"], ["w1"]),
        (["-o", "a.example:1", "--userpass=w1:a:b"], ["w1:a"]),
        (["-o", "a.example:1", "-u", "w1", "-u", "w2"], ["w1", "w2"]),
        (["-o", "a.example:1", "-u", "w1", "-o", "b.example:2", "-u", "w2", "-p", "-u"], ["w1", "w2"]),
        (["-o", "a.example:1", "-u", "w1", "-o", "b.example:2", "-u", "w1"], ["w1"]),
    ],
)
def test_shows_the_guard_every_user(given: list[str], users: list[str]) -> None:
    """Each way to name a user is seen, also one that a later one overrides."""
    assert XMRIG.payouts(given) == users


def test_pci_addresses_of_all_sources_meet() -> None:
    """XMRig leaves the domain out, NVML writes eight digits of it: both become the kernel's form."""
    assert pci_address("01:00.0") == pci_address("00000000:01:00.0") == pci_address("0000:01:00.0") == "0000:01:00.0"
    assert pci_address("0B:00.0") == "0000:0b:00.0"
    assert [pci_address(told) for told in (None, 3, "", "gpu0", "1:2")] == [""] * 5


@pytest.mark.skipif(not RECORDED.exists(), reason="the recordings lie beside a developer's clone only")
def test_reads_what_the_real_program_answered() -> None:
    """Recorded from 6.26.0 with all backends off: no pool, no algorithm, an honest 0.0 and a pause that shows."""
    backends = (RECORDED / "get_2_backends.json").read_bytes()
    reading = XMRIG.parse(RawLook((RECORDED / "get_2_summary.json").read_bytes(), backends))
    assert (reading.version, reading.algorithm, reading.pool, reading.connected) == ("6.26.0", None, None, False)
    assert (reading.hashrate_hs, reading.accepted, reading.paused, reading.parts) == (0.0, 0, False, ())
    assert XMRIG.parse(RawLook((RECORDED / "get_2_summary_paused.json").read_bytes())).paused is True
    assert XMRIG.parse(RawLook((RECORDED / "get_1_summary.json").read_bytes())).uptime_s == 4
    for refused in ("no_token_401.json", "bad_token_403.json", "get_unknown_404.json", "get_1_config.json"):
        with pytest.raises(BadAnswer):
            XMRIG.parse(RawLook((RECORDED / refused).read_bytes()))
