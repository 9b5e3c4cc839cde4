"""The pages that are written from the programs are what the programs say today."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from commander.settings import Settings
from sentry_asic.settings import AsicSettings
from sentry_core.guard import Guard
from sentry_rig.settings import RigSentrySettings
from tests.commander.cli.test_programs import ALL
from tools import reference

DOCS = Path(__file__).parents[1] / "docs"
AGAIN = "run `make docs-commands` and commit what it writes"


def test_pages_are_of_today() -> None:
    """Both pages, letter by letter."""
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == reference.commands_page(), AGAIN
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == reference.settings_page(), AGAIN


def test_every_command_is_there() -> None:
    """Found by a walk of its own over the programs, with every option."""
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for words, command in ALL:
        _, _, rest = page.partition(f"### {' '.join(words)}\n")
        section = rest.partition("\n### ")[0]
        assert section, words
        for one in command.params:
            for option in one.opts if one.param_type_name == "option" else ():
                assert f"`{option}`" in section or option == "--help", (words, option)


@pytest.mark.parametrize("kind", [Settings, RigSentrySettings, AsicSettings, Guard])
def test_every_setting_is_there(kind: type[msgspec.Struct]) -> None:
    """Each key, at any depth."""
    page = (DOCS / "settings.md").read_text(encoding="utf-8").splitlines()

    def keys(of: type[msgspec.Struct]) -> list[str]:
        found = []
        for field in msgspec.structs.fields(of):
            inner = type(field.default)
            found += keys(inner) if issubclass(inner, msgspec.Struct) else [field.encode_name]
        return found

    for key in keys(kind):
        assert any(line.startswith((f"{key} =", f"# {key} =")) for line in page), key
