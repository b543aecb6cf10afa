"""Configuration from files, environment and flags to `Settings`, with errors that name file, line and fix.

Later sources win: each ``--config`` in order, then ``FORECASTLE_SECTION__FIELD`` variables, then ``--set section.field=value``.
A variable or flag whose text starts with ``[`` or ``{`` is read as YAML. Mappings merge; the lists under ``fleet`` and
``playbooks`` are appended, so that a fleet can be spread over files; any other list is replaced. Files are YAML 1.2:
``22:30`` is text and ``on`` is no boolean. Aliases are refused (a YAML bomb needs them).
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from forecastle.errors import ConfigError
from forecastle.runtime.clocks import WallClock
from forecastle.settings import Settings

PREFIX = "FORECASTLE_"
NOT_SETTINGS = frozenset({"FORECASTLE_DATA", "FORECASTLE_KILL"})
APPENDED = frozenset({("fleet", "sites"), ("fleet", "workloads"), ("playbooks",)})
MAX_BYTES = 4 << 20
FOLDERS = ("fleet", "policies", "playbooks")


def load(
    paths: Sequence[Path] = (),
    *,
    environment: Mapping[str, str] | None = None,
    flags: Iterable[str] = (),
    at: int | None = None,
    look_up: bool = True,
) -> Settings:
    """Settings from ``paths`` (files, or folders holding base.yaml, fleet/, policies/ and playbooks/), environment and flags.

    With ``look_up`` pools that name a sku get the price in force at ``at`` (ms; default: now). Raises ConfigError listing
    every problem, each with its file and line (or variable, or flag) and what to write instead.
    """
    sources: list[tuple[str, Any]] = [(str(path), read(path)) for path in _expand(paths)]
    variables = os.environ if environment is None else environment
    sources += [
        (f"${name}", _nest(name.removeprefix(PREFIX).lower().split("__"), _given(f"${name}", text)))
        for name, text in sorted(variables.items())
        if name.startswith(PREFIX) and name not in NOT_SETTINGS
    ]
    sources += [_flag(flag) for flag in flags]
    merged: dict[str, Any] = {}
    for _, data in sources:
        _merge(merged, data, ())
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems = [explain(problem, sources) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None
    if not look_up or not any(pool.sku for load in settings.fleet.workloads for pool in load.pools):
        return settings
    from forecastle.runtime.prices import priced

    return priced(settings, WallClock().now() if at is None else at, lambda loc: locate(loc, sources))


def _expand(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [p for p in [path / "base.yaml"] if p.exists()]
            files += [f for folder in FOLDERS for f in sorted((path / folder).glob("*.yaml"))]
        else:
            files.append(path)
    return files


def read(path: Path) -> Any:
    """One YAML file as nested mappings that remember their lines. Raises ConfigError."""
    data = _parse(path, read_text(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: is a {type(data).__name__}, not a mapping; start with a section name such as 'intake:'")
    return data


def read_text(path: Path) -> str:
    """What a file of moderate size says. Raises ConfigError."""
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path given with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    if len(found) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; split the fleet over several files")
    return found


def _parse(path: Path, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent

    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, AliasEvent):
                raise ConfigError(
                    f"{path}:{event.start_mark.line + 1}: aliases (*{event.anchor}) are refused; repeat the value"
                )
        return YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: {str(error.problem).splitlines()[0]}; keep one of them") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        raise ConfigError(f"{path}:{line}: is not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; configuration needs fewer than ten levels") from None


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return typing.cast("dict[str, Any]", value)


def _flag(flag: str) -> tuple[str, dict[str, Any]]:
    name, equals, text = flag.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {flag}: has no value; write --set section.field=value")
    return f"--set {name}", _nest(name.split("."), _given(f"--set {name}", text))


def _given(source: str, text: str) -> Any:
    """What a variable or flag says: text, or the list or mapping it spells."""
    return _parse(Path(source), text) if text.startswith(("[", "{")) else text


def _merge(into: dict[str, Any], data: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for key, value in data.items():
        here = (*path, str(key))
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, here)
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, here)
        elif isinstance(value, list) and here in APPENDED:
            into[key] = [*into.get(key, []), *value]
        else:
            into[key] = value


def explain(problem: Any, sources: Sequence[tuple[str, Any]], root: type[BaseModel] = Settings) -> str:
    """One pydantic error of ``root`` as ``file:line: path: what; fix``."""
    loc: tuple[str | int, ...] = problem["loc"]
    where = locate(loc, sources)
    dotted = ".".join(map(str, loc))
    if problem["type"] == "extra_forbidden":
        names = _names(loc[:-1], root)
        close = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.5)
        fix = f"did you mean '{close[0]}'?" if close else f"known names: {', '.join(names)}"
        return f"{where}: {dotted}: unknown name; {fix}"
    if problem["type"] == "missing":
        return f"{where}: {dotted}: is missing; add '{loc[-1]}: ...'"
    given = problem.get("input")
    shown = f" (given {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {dotted}: {problem['msg']}{shown}"


def locate(loc: Sequence[str | int], sources: Sequence[tuple[str, Any]]) -> str:
    """The last source that has this path, with its line; for appended lists the index runs over all files."""
    offset = 0
    best = ""
    for name, data in sources:
        node, line, depth, skip = data, 0, 0, 0
        for part in loc:
            key: Any = part
            if isinstance(part, int) and isinstance(node, list):
                if tuple(loc[:depth]) in APPENDED:
                    key, skip = part - offset, len(node)
                if not 0 <= key < len(node):
                    break
            elif not (isinstance(node, dict) and part in node):
                break
            marks = getattr(node, "lc", None)
            if marks is not None and marks.data and key in marks.data:
                line = marks.data[key][0] + 1
            node, depth = node[key], depth + 1
        if depth == len(loc) or (depth >= max(len(loc) - 1, 1) and not best):
            best = f"{name}:{line}" if line else name
        offset += skip or _appended_length(loc, data)
    return best or (sources[0][0] if len(sources) == 1 else "configuration")


def _appended_length(loc: Sequence[str | int], data: Any) -> int:
    """How many entries this source adds to the appended list that ``loc`` runs through."""
    for end in range(1, len(loc)):
        if tuple(loc[:end]) in APPENDED:
            node = data
            for part in loc[:end]:
                node = node.get(part, {}) if isinstance(node, dict) else {}
            return len(node) if isinstance(node, list) else 0
    return 0


def _names(loc: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """Field names of the settings class at ``loc``."""
    kind: Any = root
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field else None
        else:
            kind = next((a for a in typing.get_args(kind)[::-1] if a is not Ellipsis), None)
    return sorted(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
