"""Mining programs as files: only what was pinned is unpacked, and nothing it holds gets out of its folder."""

import asyncio
import hashlib
import http.server
import io
import os
import signal
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from garrison.faults import BadAnswer, BadInput, NotAllowed, NotFound, Refused, Unavailable, Unreachable
from garrison.model import Archive
from sentry_rig import unpack as unpacking
from sentry_rig.archives import Programs
from sentry_rig.settings import RigSettings

PROGRAM = b"#!/bin/sh\necho mined\n"


def tar(path: Path, *members: tuple[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    """A tar file of (name, bytes) or prepared members."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # the mode is a test's
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return path


def pinned(path: Path, executable: str = "") -> Archive:
    return Archive(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), executable)


def programs(folder: Path, **settings: object) -> Programs:
    return Programs(folder / "programs", RigSettings(**settings))  # type: ignore[arg-type]  # each test gives its own few


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return tar(
        tmp_path / "xmrig.tar.gz",
        ("xmrig-6.26.0/xmrig", PROGRAM),
        ("xmrig-6.26.0/config.json", b"{}"),
        ("xmrig-6.26.0/SHA256SUMS", b""),
    )


def test_unpacks_what_was_pinned(tmp_path: Path, good: Path) -> None:
    """The executable is named by the order, made executable, and the stock config is set aside."""
    archive = pinned(good, "xmrig-6.26.0/xmrig")
    found = programs(tmp_path).install("xmrig", "6.26.0", archive, ("config.json",))
    assert found == tmp_path / "programs" / "xmrig" / f"6.26.0-{archive.sha256[:12]}" / "xmrig-6.26.0" / "xmrig"
    assert found.read_bytes() == PROGRAM
    assert found.stat().st_mode & 0o111
    assert not (found.parent / "config.json").exists()
    assert (found.parent / "config.json.stock").exists()
    assert not list((tmp_path / "programs").glob(".incoming-*"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_compression_of_tar(tmp_path: Path, mode: str) -> None:
    """Release pages use all of them."""
    archive = pinned(tar(tmp_path / "x.tar", ("bin/xmrig", PROGRAM), mode=mode), "bin/xmrig")
    assert programs(tmp_path).install("xmrig", "1", archive).read_bytes() == PROGRAM


def test_zip_and_bare_executable(tmp_path: Path) -> None:
    """A zip keeps no mode on Windows, and a single file is a program too."""
    path = tmp_path / "xmrig.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xmrig/xmrig", PROGRAM)
    found = programs(tmp_path).install("xmrig", "1", pinned(path, "xmrig\\xmrig"))
    assert os.access(found, os.X_OK)
    bare = tmp_path / "miner"
    bare.write_bytes(PROGRAM)
    found = programs(tmp_path).install("xmrig", "2", pinned(bare))
    assert (found.name, found.read_bytes()) == ("xmrig", PROGRAM)
    assert os.access(found, os.X_OK)


def test_another_hash_is_refused_with_both(tmp_path: Path, good: Path) -> None:
    """And nothing of it is left or run."""
    wrong = Archive(str(good), "ab" * 32, "xmrig-6.26.0/xmrig")
    with pytest.raises(Refused) as refusal:
        programs(tmp_path).install("xmrig", "6.26.0", wrong)
    assert hashlib.sha256(good.read_bytes()).hexdigest() in refusal.value.text
    assert "ab" * 32 in refusal.value.text
    assert not list((tmp_path / "programs").rglob("xmrig"))


def test_installed_once_and_repaired_when_changed(tmp_path: Path, good: Path) -> None:
    """The second time the archive is not needed; an executable that changed meanwhile is not run."""
    archive, kept = pinned(good, "xmrig-6.26.0/xmrig"), programs(tmp_path)
    found = kept.install("xmrig", "6.26.0", archive)
    moved = good.rename(good.with_name("away"))
    assert kept.install("xmrig", "6.26.0", archive) == found
    found.write_bytes(b"#!/bin/sh\nrm -rf /\n")
    with pytest.raises(NotFound):
        kept.install("xmrig", "6.26.0", archive)
    moved.rename(good)
    assert kept.install("xmrig", "6.26.0", archive).read_bytes() == PROGRAM
    (found.parents[1] / ".garrison.json").write_bytes(b"{half")
    assert kept.install("xmrig", "6.26.0", archive).read_bytes() == PROGRAM


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", b"x"),
        ("a/../../outside", b"x"),
        ("/outside", b"x"),
        ("a\\..\\..\\outside", b"x"),
        ("C:/outside", b"x"),
        ("link", _link("link", "/etc/passwd", tarfile.SYMTYPE)),
        ("link", _link("link", "/etc/passwd", tarfile.LNKTYPE)),
        ("pipe", _link("pipe", "", tarfile.FIFOTYPE)),
        ("device", _link("device", "", tarfile.CHRTYPE)),
        ("xmrig", b"the second of this name"),
    ],
    ids=lambda member: member[0],
)
def test_hostile_tar_is_refused_whole(tmp_path: Path, member: tuple[str, bytes | tarfile.TarInfo]) -> None:
    """No traversal, no links, no devices, no overwriting; and no half of it stays."""
    archive = pinned(tar(tmp_path / "x.tar.gz", ("xmrig", PROGRAM), member), "xmrig")
    with pytest.raises(Refused):
        programs(tmp_path).install("xmrig", "1", archive)
    assert not (tmp_path / "outside").exists()
    assert [path.name for path in (tmp_path / "programs").iterdir()] == []


@pytest.mark.parametrize(
    ("name", "mode"), [("../outside", 0), ("/outside", 0), ("link", stat.S_IFLNK | 0o777), ("pipe", stat.S_IFIFO)]
)
def test_hostile_zip_is_refused_whole(tmp_path: Path, name: str, mode: int) -> None:
    """The same in a zip, where links hide in the attributes."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xmrig", PROGRAM)
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(Refused):
        programs(tmp_path).install("xmrig", "1", pinned(path, "xmrig"))
    assert not (tmp_path / "outside").exists()


def test_bombs_are_counted_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an archive says about its size is not believed, and neither is its number of files."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xmrig", b"\0" * 3_000_000)
    with pytest.raises(Refused, match="larger"):
        unpacking.unpack(path, tmp_path / "out", max_bytes=2_000_000)
    monkeypatch.setattr(unpacking, "MAX_FILES", 10)
    many = tar(tmp_path / "many.tar", *((f"f{n}", b"") for n in range(11)))
    with pytest.raises(Refused, match="files"):
        unpacking.unpack(many, tmp_path / "out2")


@pytest.mark.parametrize(
    ("version", "archive"),
    [
        ("../6", {}),
        ("", {}),
        (".hidden", {}),
        ("6.26.0", {"sha256": ""}),
        ("6.26.0", {"sha256": "xyz"}),
        ("6.26.0", {"executable": "../../bin/sh"}),
        ("6.26.0", {"executable": "/bin/sh"}),
        ("6.26.0", {"executable": "no/such/file"}),
        ("6.26.0", {"executable": ""}),
        ("6.26.0", {"location": "relative/path"}),
    ],
)
def test_senseless_orders_are_bad_input(tmp_path: Path, good: Path, version: str, archive: dict[str, str]) -> None:
    """Each is refused in words, before or after unpacking, with nothing installed."""
    right = pinned(good, "xmrig-6.26.0/xmrig")
    given = replace(right, **archive)  # type: ignore[arg-type]  # the table holds its text fields only
    with pytest.raises(BadInput):
        programs(tmp_path).install("xmrig", version, given)
    assert not list((tmp_path / "programs").rglob("xmrig"))


def test_the_rigs_owner_has_the_last_word(tmp_path: Path, good: Path) -> None:
    """Folder, hashes and downloads are settings of the rig, which the commander cannot change."""
    archive = pinned(good, "xmrig-6.26.0/xmrig")
    with pytest.raises(NotAllowed, match="archive_folder"):
        programs(tmp_path, archive_folder=str(tmp_path / "elsewhere")).install("xmrig", "1", archive)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.tar.gz").symlink_to(good)
    linked = Archive(str(tmp_path / "elsewhere" / "link.tar.gz"), archive.sha256, archive.executable)
    with pytest.raises(NotAllowed, match="archive_folder"):
        programs(tmp_path, archive_folder=str(tmp_path / "elsewhere")).install("xmrig", "1", linked)
    with pytest.raises(NotAllowed, match="archive_sha256"):
        programs(tmp_path, archive_sha256=["00" * 32]).install("xmrig", "1", archive)
    with pytest.raises(NotAllowed, match="downloads"):
        programs(tmp_path, downloads=False).install("xmrig", "1", Archive("https://127.0.0.1:1/x", archive.sha256))
    with pytest.raises(Refused, match="larger"):
        programs(tmp_path, download_max_mb=0.0001).install("xmrig", "1", archive)
    with pytest.raises(NotFound):
        programs(tmp_path).install("xmrig", "1", Archive(str(tmp_path / "none"), archive.sha256))


def test_full_disk_is_said(tmp_path: Path, good: Path) -> None:
    """In words, and no half program stays behind. A limit on file sizes gives the same kind of short write."""
    resource = pytest.importorskip("resource")
    too_large = signal.Signals["SIGXFSZ"]
    archive = pinned(good, "xmrig-6.26.0/xmrig")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heed = signal.signal(too_large, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(Unavailable, match="cannot install xmrig"):
            programs(tmp_path).install("xmrig", "6.26.0", archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(too_large, heed)
    assert list((tmp_path / "programs").iterdir()) == []


@pytest.fixture
def site(good: Path) -> Iterator[Callable[[str], str]]:
    """A web server on loopback; gives the address of a path."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", self.path.partition("=")[2] or "/xmrig")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = good.read_bytes()
            self.send_response(404 if self.path.startswith("/none") else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:-10] if self.path == "/short" else body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_fetches_what_an_order_names(tmp_path: Path, good: Path, site: Callable[[str], str]) -> None:
    """Through redirects, hashed on the way; a short answer, a 404 and a dead address are told apart."""
    right = pinned(good, "xmrig-6.26.0/xmrig")

    async def install(url: str) -> Path:
        return await asyncio.to_thread(programs(tmp_path).install, "xmrig", "1", Archive(url, right.sha256, right.executable))

    with pytest.raises(BadAnswer, match="404") as refusal:
        await install(site("/none?key=very-secret"))
    assert "very-secret" not in str(refusal.value)
    with pytest.raises((BadAnswer, Refused)):
        await install(site("/short"))
    with pytest.raises(Unreachable):
        await install("http://127.0.0.1:1/xmrig")
    assert (await install(site("/moved"))).read_bytes() == PROGRAM


@pytest.mark.parametrize(
    "url", ["http://192.0.2.7/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://localhost/x", "https://u:p@127.0.0.1/x"]
)
def test_only_https_is_fetched(tmp_path: Path, url: str) -> None:
    """Plain HTTP is for this very machine (tests); addresses with passwords are not taken."""
    with pytest.raises((NotAllowed, BadInput)):
        programs(tmp_path).install("xmrig", "1", Archive(url, "ab" * 32))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://192.0.2.7/x", "ftp://127.0.0.1/x"])
async def test_a_redirect_is_held_to_the_same_rule(tmp_path: Path, site: Callable[[str], str], target: str) -> None:
    """A release page must not lead us to a file or to plain HTTP elsewhere."""
    archive = Archive(site(f"/moved?to={target}"), "ab" * 32)
    with pytest.raises((NotAllowed, BadAnswer)):
        await asyncio.to_thread(programs(tmp_path).install, "xmrig", "1", archive)
