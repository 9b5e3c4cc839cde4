"""The documentation: links lead somewhere, decisions and checklists are reachable, the Makefile's list is whole."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def links_of(page: Path) -> list[Path]:
    """Relative links, resolved."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [(page.parent / link.split("#")[0]).resolve() for link in found if not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of each page."""
    assert [str(link) for link in links_of(page) if not link.exists()] == []


def test_every_page_is_reachable() -> None:
    """From the README, over links; a link to a folder reaches what is in it."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in links_of(page):
            todo += sorted(link.glob("*.md")) if link.is_dir() else [link] if link.suffix == ".md" else []
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in seen] == []


def test_decisions_are_numbered_without_gaps() -> None:
    """0001, 0002, …: the title carries the number."""
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for number, page in enumerate(pages, start=1):
        assert page.read_text(encoding="utf-8").startswith(f"# {number}. ")


def test_make_lists_every_target() -> None:
    """`make` alone shows what there is to do, each with a sentence."""
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S607  # the system's own
    assert {line.split()[0] for line in shown.splitlines() if len(line.split()) > 1} == phony


def test_architecture_is_one_screen() -> None:
    """A page that grows past that is not read."""
    assert len((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()) <= 50
