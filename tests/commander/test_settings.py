"""The commander's settings: what the types cannot say is checked at start, with the line or the file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from commander import settings
from commander.settings import Listen, Settings, check, home_of, host_port, is_loopback
from garrison import settings as toml
from garrison.faults import BadInput, NotFound
from tests.certificates import self_signed


def write(home: Path, text: str) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    (home / settings.FILE).write_text(text)
    return home


def test_the_example_is_the_default() -> None:
    """Read back it gives the settings that hold without a file."""
    assert toml.loads(toml.example(Settings, settings.TITLE), Settings) == Settings()


def test_what_init_writes(tmp_path: Path) -> None:
    """Every key with its comment; read back it is what was asked for."""
    asked = Settings(farm='the "north"', listen=Listen(post="10.0.0.1:1", advertise="x.example"))
    assert toml.loads(toml.example(Settings, settings.TITLE, asked), Settings) == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('farm = "x"\n\n[listen]\npots = "a:1"\n', "line 4: unknown key `listen.pots`"),
        ("[history]\nraw_days = 0\n", "line 2: `history.raw_days`"),
        ("[history]\nraw_days = 30.5\n", "line 2: `history.raw_days`"),
        ("[power]\noff_s = 1\n", "line 2: `power.off_s`"),
        ("[power]\nbrake_share = 0\n", "line 2: `power.brake_share`"),
        ('[log]\n# loud\nlevel = "loud"\n', "line 3: `log.level`"),
        ('[log]\nshape = "xml"\n', "line 2: `log.shape`"),
        ('farm = ""\n', "line 1: `farm`"),
        ("farm = \n", "line 1"),
        ('farm = "a"\nfarm = "b"\n', "line 2"),
        ('[listen]\npost = "nowhere"\n', "`listen.post`: 'nowhere' is not host:port"),
        ('[listen]\npost = "x:70000"\n', "`listen.post`"),
        ('[listen]\npost = ""\n', "`listen.post` is empty"),
        ('[listen]\nenrol = "x"\n', "`listen.enrol`"),
        ('[listen]\nhttp = "0.0.0.0:8440"\n', "would send tokens in the clear"),
        ('[listen]\nhttp = "farm.example:8440"\n', "would send tokens in the clear"),
        ('[listen]\nhttp_key = "/x"\n', "belong together"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file, and the line where there is one."""
    home = write(tmp_path, text)
    with pytest.raises(BadInput) as refused:
        settings.load(home)
    assert said in refused.value.text
    assert str(home / settings.FILE) in refused.value.text


def test_no_settings(tmp_path: Path) -> None:
    """Says where they were looked for."""
    with pytest.raises(NotFound, match="no settings at"):
        settings.load(tmp_path)


def test_tls_files(tmp_path: Path) -> None:
    """They must be there, readable, PEM, of one pair, and the key without a password."""
    certificate, key = self_signed(tmp_path, "one")
    _, other_key = self_signed(tmp_path, "two")
    _, locked_key = self_signed(tmp_path, "three", password=b"secret")
    (tmp_path / "junk.pem").write_text("junk")

    def load(certificate: Path, key: Path) -> Settings:
        text = f'[listen]\nhttp = "0.0.0.0:1"\nhttp_certificate = "{certificate}"\nhttp_key = "{key}"\n'
        return settings.load(write(tmp_path / "home", text))

    assert load(certificate, key).listen.http == "0.0.0.0:1"
    for one, two, said in (
        (tmp_path / "missing.pem", key, "cannot read `listen.http_certificate`"),
        (certificate, tmp_path / "missing.key", "cannot read `listen.http_key`"),
        (certificate, tmp_path, "cannot read `listen.http_key`"),
        (tmp_path / "junk.pem", key, "do not work"),
        (certificate, other_key, "do not work"),
        (certificate, locked_key, "do not work"),
    ):
        with pytest.raises(BadInput) as refused:
            load(one, two)
        assert said in refused.value.text


@pytest.mark.parametrize(
    ("text", "expected"), [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:2", ("::1", 2)), ("a.example:65535", ("a.example", 65535))]
)
def test_host_port(text: str, expected: tuple[str, int]) -> None:
    """An IPv6 address stands in brackets."""
    assert host_port(text, "x") == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """These stay on this machine, and plain HTTP may listen there."""
    assert is_loopback(host)
    check(Settings(listen=Listen(http=f"[{host}]:1" if ":" in host else f"{host}:1")), "x")


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--home, else GARRISON_HOME, else ./farm where there is one, else the system's; the commander has its own folder there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GARRISON_HOME", raising=False)
    assert home_of() == Path("/var/lib/garrison/commander")
    (tmp_path / "farm").mkdir()
    assert home_of() == tmp_path / "farm" / "commander"
    monkeypatch.setenv("GARRISON_HOME", str(tmp_path / "other"))
    assert home_of() == tmp_path / "other" / "commander"
    assert home_of(Path("given")) == tmp_path / "given" / "commander"
