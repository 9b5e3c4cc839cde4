"""Writes docs/commands.md and docs/settings.md from the programs themselves: `python -m tools.reference`.

A test compares, so what a command or a setting is called stands in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from commander import settings as commander_settings
from commander.cli.app import app as commander_app
from garrison import settings as toml
from sentry_asic.cli import app as asic_app
from sentry_asic.settings import AsicSettings
from sentry_core import guard
from sentry_rig.cli import app as rig_app
from sentry_rig.settings import RigSentrySettings

DOCS = Path(__file__).parents[1] / "docs"
PROGRAMS: dict[str, typer.Typer] = {"commander": commander_app, "sentry-rig": rig_app, "sentry-asic": asic_app}
HIDDEN = frozenset({"--help", "--install-completion", "--show-completion", "--version"})
"""Options that every program has; said once."""


def commands_page() -> str:
    lines = [
        "# Commands",
        "",
        "Written by `make docs-commands` from the programs themselves. Every command has `--help`, every program `--version` and",
        "`--install-completion`. Lists and single objects take `--json`. Errors are on stderr: what was wrong and what to do, with",
        "exit code 1; words that make no command end with 2, Ctrl-C while waiting with 130.",
    ]
    for program, app in PROGRAMS.items():
        command = typer.main.get_command(app)
        lines += ["", f"## {program}", "", command.help or ""]
        lines += _options(command)
        for words, one in _commands(command, (program,)):
            lines += ["", f"### {' '.join(words)}", "", _sentence(one.help), *_options(one)]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Written by `make docs-commands` from the programs themselves. `config example` of each prints the same, `config check`",
        "says what is wrong with a file and in which line. An unknown key is refused. The files are read at start; only the guard",
        "is read anew for each order.",
        "",
        "Where they are: `--home`, else `GARRISON_HOME`, else `./farm` where there is one, else `/var/lib/garrison` (Windows:",
        "`%PROGRAMDATA%\\Garrison`); below it `commander/`, `sentry-rig/`, `sentry-asic/`.",
    ]
    for file, kind, title in (
        ("commander/commander.toml", commander_settings.Settings, commander_settings.TITLE),
        ("sentry-rig/sentry.toml", RigSentrySettings, "Garrison sentry-rig. Every key is optional; these are the defaults."),
        ("sentry-asic/sentry.toml", AsicSettings, "Garrison sentry-asic. Every key is optional; these are the defaults."),
        ("sentry-rig/guard.toml, sentry-asic/guard.toml", guard.Guard, guard.TITLE),
    ):
        lines += ["", f"## {file}", "", "```toml", toml.example(kind, title).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner: dict[str, Any] | None = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for name, one in (inner or {}).items():
        yield from _commands(one, (*words, name))


def _options(command: Any) -> list[str]:
    shown = [one for one in command.params if not HIDDEN & set(one.opts)]
    return ["", *(f"- {_name(one)}: {_sentence(one.help)}{_more(one)}" for one in shown)] if shown else []


def _name(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{one.name.upper()}{'…' if one.nargs == -1 else ''}`"
    return ", ".join(f"`{word}`" for word in (*one.opts, *one.secondary_opts))


def _more(one: Any) -> str:
    said = []
    if one.envvar:
        said.append(f"or `{one.envvar}`")
    shown = one.show_default if isinstance(getattr(one, "show_default", None), str) else one.default
    if one.param_type_name != "argument" and not one.required and shown not in (None, "", False, 0, ()):
        said.append(f"default `{shown}`")
    if one.param_type_name != "argument" and one.required:
        said.append("required")
    return f" ({', '.join(said)})" if said else ""


def _sentence(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def main() -> None:
    (DOCS / "commands.md").write_text(commands_page(), encoding="utf-8")
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
