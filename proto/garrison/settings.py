"""One TOML file a daemon, read into frozen msgspec structs: unknown keys and wrong values are refused with their line.

A settings class is a `msgspec.Struct` with `frozen=True, forbid_unknown_fields=True`; each field has a default and a
`Meta(description=…)`, from which `example` writes the commented example file.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from garrison.faults import BadInput, NotFound

T = TypeVar("T", bound=msgspec.Struct)


def load(path: Path, kind: type[T]) -> T:
    """The settings in `path`. BadInput names the file, the line and what to write instead; NotFound when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"no settings at {path}", hint="`init` or `enrol` writes them, `config example` shows them") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    return loads(text, kind, str(path))


def loads(text: str, kind: type[T], name: str = "settings") -> T:
    """The settings in `text`; `name` is for the messages."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{name} is not valid TOML: {error}") from error
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `")
        dotted = where.rstrip("`").removeprefix("$").removeprefix(".")
        unknown = re.search(r"unknown field `([^`]*)`", message)
        if unknown:
            dotted = f"{dotted}.{unknown[1]}" if dotted else unknown[1]
            message = f"unknown key `{dotted}`"
        elif dotted:
            message = f"`{dotted}`: {message[:1].lower()}{message[1:]}"
        line = _line_of(text, dotted)
        raise BadInput(f"{name}{f', line {line}' if line else ''}: {message}", hint="`config example` lists every key") from error


def example(kind: type[msgspec.Struct], title: str, values: msgspec.Struct | None = None) -> str:
    """A commented TOML file with every key, at its default or as in `values` (of that kind)."""
    lines = [f"# {title}", ""]
    _example_table(kind, "", lines, values)
    return "\n".join(lines).rstrip() + "\n"


def _example_table(kind: type[msgspec.Struct], table: str, lines: list[str], values: Any) -> None:
    hints = get_type_hints(kind, include_extras=True)
    tables: list[tuple[str, type[msgspec.Struct]]] = []
    for field in msgspec.structs.fields(kind):
        plain, text = _described(hints[field.name])
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            tables.append((f"{table}.{field.encode_name}" if table else field.encode_name, plain))
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else _made(field.default_factory)
        if values is not None:
            default = getattr(values, field.name)
        if text:
            lines += [f"# {part}" for part in text.splitlines()]
        shown = _toml(default)
        lines.append(f"# {field.encode_name} =" if shown is None else f"{field.encode_name} = {shown}")
    for name, inner in tables:
        lines += ["", f"[{name}]"]
        _example_table(inner, name, lines, getattr(values, name.rpartition(".")[2], None))


def _described(hint: Any) -> tuple[Any, str]:
    if hasattr(hint, "__metadata__"):
        texts = [m.description for m in hint.__metadata__ if isinstance(m, msgspec.Meta) and m.description]
        return get_args(hint)[0], texts[0] if texts else ""
    return (get_origin(hint) or hint) if isinstance(hint, type) else hint, ""


def _made(factory: Any) -> Any:
    return None if factory is msgspec.NODEFAULT else factory()


def _toml(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(filter(None, (_toml(item) for item in value))) + "]"
    if isinstance(value, dict) and not value:
        return "{}"
    return _toml(str(value))


def _line_of(text: str, dotted: str) -> int | None:
    """The line that sets `dotted` ("power.off_s", "pools[1].url"), as a person would look for it; None when not found."""
    wanted = _steps(dotted)
    if not wanted:
        return None
    table: list[str | int] = []
    seen: dict[str, int] = {}
    best: tuple[int, int] | None = None  # how many steps it shares, line
    perhaps: list[int] = []  # msgspec does not tell which key of a dict it means
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.split("#", 1)[0].strip()
        header = re.fullmatch(r"(\[\[?)\s*([^\[\]]+?)\s*\]\]?", bare)
        key = None if header else re.match(r"((?:[A-Za-z0-9_.-]|\"[^\"]*\"|'[^']*')+)\s*=", bare)
        if header:
            here = table = _in_table(header[2], seen, another=header[1] == "[[")
        elif key:
            here = table + _names(key[1])
        else:
            continue
        if here == wanted:
            return number
        if _alike(here, wanted):
            perhaps.append(number)
        # an inline table or a list holds it
        if here == wanted[: len(here)] and (best is None or len(here) > best[0]):
            best = len(here), number
    if len(perhaps) == 1:
        return perhaps[0]
    return best[1] if best else None


def _in_table(header: str, seen: dict[str, int], *, another: bool) -> list[str | int]:
    """Where `[header]` (or `[[header]]`: another one) leads; `seen` counts the tables of each list."""
    if another:
        seen[header] = seen.get(header, -1) + 1
    steps: list[str | int] = []
    for name in _names(header):
        steps.append(name)
        so_far = ".".join(str(step) for step in steps if isinstance(step, str))
        if so_far in seen:
            steps.append(seen[so_far])
    return steps


def _names(dotted: str) -> list[str | int]:
    return [name.strip("\"'") for name in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted)]


def _steps(dotted: str) -> list[str | int]:
    """msgspec's path: names, list places, and `[...]` for a key it does not tell."""
    return [int(place) if place else name for place, name in re.findall(r"\[(\d+)\]|([^.\[\]]+|\[\.\.\.\])", dotted)]


def _alike(here: list[str | int], wanted: list[str | int]) -> bool:
    return len(here) == len(wanted) and all(b in (a, "[...]") for a, b in zip(here, wanted, strict=True))
