"""The pages of docs/reference that are taken from the code, so that they cannot say something else than the code.

``python docs/generate.py`` writes them, ``--check`` only says which ones are stale. `make docs` and a test call it.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from forecastle.cli import app
from forecastle.guards.judge import ORDER
from forecastle.ledger.schema import metadata
from forecastle.settings import Settings

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code; edit the code instead. -->"


# --- settings -------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting with its type, default and meaning, one table per section."""
    lines = [
        NOTE,
        "# Settings",
        "",
        "Later sources win: each `--config` in order, then environment variables, then `--set`. Mappings merge; the lists",
        "under `fleet` and `playbooks` are appended, any other list is replaced. `guards.quorum` is",
        "`FORECASTLE_GUARDS__QUORUM` in the environment and `--set guards.quorum=2` on the command line. An unknown or",
        "repeated name is refused with its file, line and the nearest valid name. The JSON schema for editors is",
        "`settings.schema.json` beside this page.",
    ]
    for path, model in _sections("", Settings):
        lines += ["", f"## `{path}`", "", (model.__doc__ or "").strip().split("\n")[0], ""]
        lines += ["| name | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {_cell(field.description or '')} |"
            for name, field in model.model_fields.items()
        ]
    return "\n".join(lines) + "\n"


def _sections(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        for inner, mark in _models(field.annotation):
            here = f"{path}{name}{mark}"
            yield here, inner
            yield from _sections(f"{here}.", inner)


def _models(annotation: Any, mark: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, mark
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    for one in inner:
        yield from _models(one, {tuple: "[]", dict: ".NAME"}.get(origin, mark) if origin else mark)


def _type(annotation: Any) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret text", type(None): "none"}
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    shown = names.get(annotation, "")
    if origin is typing.Annotated:
        shown = _type(inner[0])
    elif origin is typing.Literal:
        shown = " or ".join(f"`{one}`" for one in inner)
    elif origin in (typing.Union, types.UnionType):
        shown = " or ".join(_type(one) for one in inner)
    elif origin in (tuple, frozenset, list):
        shown = f"list of {_type(inner[0])}"
    elif origin is dict:
        shown = f"mapping of {_type(inner[0])} to {_type(inner[1])}"
    elif not shown and issubclass(annotation, BaseModel):
        shown = "section"
    elif not shown and issubclass(annotation, Enum):
        shown = " or ".join(f"`{one.value}`" for one in annotation)
    return shown


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, tuple | frozenset):
        value = sorted(value)
    return "none" if value is None else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema_file() -> str:
    """JSON schema of a configuration file, for editors and for checks outside Python."""
    return json.dumps(Settings.model_json_schema(), indent=2) + "\n"


# --- command line ---------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        NOTE,
        "# Command line",
        "",
        "Exit status: 0 when all is well, 1 when a check failed or something differs, 2 for a wrong invocation or",
        "configuration or an error that the message explains.",
    ]
    for name, command in _commands(typer.main.get_command(app), "forecastle"):
        lines += ["", f"## `{name}`", "", (command.help or "").strip(), ""]
        lines += ["| parameter | default | meaning |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name != "help":
                lines.append(_parameter(parameter))
    return "\n".join(lines) + "\n"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from _commands(one, f"{path} {name}")


def _parameter(parameter: Any) -> str:
    option = parameter.param_type_name == "option"
    name = ", ".join(parameter.opts) if option else str(parameter.name).upper()
    default = parameter.default
    shown = "required" if parameter.required else ("" if default in (None, "", [], ()) else f"`{default}`")
    return f"| `{name}` | {shown} | {_cell(getattr(parameter, 'help', '') or '')} |"


# --- ledger ---------------------------------------------------------------------------------------------------------

MEANING = {
    "entries": "The truth: an append-only hash chain. `hash` is the SHA-256 of `prev`, `seq`, `at`, `kind` and `body`.",
    "ticks": "Which tick was decided by which worker (`scope`), and in which entry.",
    "plans": "Where each plan is: its entry, its hash (what an approval binds to) and its expiry.",
    "recommendations": "Replicas wanted before guards; the stabilization windows are rebuilt from them.",
    "panics": "Ticks whose plan the panic guard struck.",
    "fingerprints": "When a worker first decided with a configuration and model; dates the warm-up.",
    "intents": "Effects about to happen; at most one open one per target.",
    "outcomes": "How actions ended.",
    "ready": "When growth was first seen to be all ready; start-up lags are learned from it.",
    "drained": "Pools that a failover emptied, and the traffic weight to give back to them.",
    "leases": "Who may touch a target, under which epoch.",
    "buckets": "Token buckets of the healing budgets.",
    "modes": "Modes of workloads changed by people.",
    "holds": "What people hold; the target `*` is the kill switch.",
    "requests": "Plans that wait for approval.",
    "approvals": "Who approved which plan hash, and until when.",
}


def ledger_page() -> str:
    """The tables of the ledger."""
    lines = [
        NOTE,
        "# Ledger tables",
        "",
        "Times (`at`, `tick`, `expires_at`) are milliseconds since the epoch, UTC. `entries` is the truth; the other tables",
        "are derived from it for queries, or coordinate workers. The schema is the same in SQLite and in PostgreSQL.",
    ]
    for table in metadata.sorted_tables:
        lines += ["", f"## `{table.name}`", "", MEANING[table.name], "", "| column | type | key |", "|---|---|---|"]
        for column in table.columns:
            kind = str(column.type).lower()
            key = "primary" if column.primary_key else ("" if column.nullable else "not null")
            lines.append(f"| `{column.name}` | {kind} | {key} |")
    return "\n".join(lines) + "\n"


# --- guards ---------------------------------------------------------------------------------------------------------

KNOBS = {
    "failover": ("quorum", "escalation_attempts", "escalation_s"),
    "change_window": ("windows",),
    "inventory_jump": ("inventory_jump_fraction",),
    "missing_data": ("dark_s",),
    "quorum": ("quorum",),
    "panic": ("panic_fraction",),
    "panic_clear": ("panic_clear_s",),
    "ejection": ("ejection_fraction",),
    "heal_budget": ("heals_per_domain_h", "heals_global_h"),
    "escalation": ("escalation_attempts", "escalation_s", "repeat_symptom_h"),
    "tolerance": ("tolerance",),
    "stabilization": ("stabilization_down_s", "stabilization_up_s"),
    "cool_down": ("cooldown_up_s", "cooldown_down_s"),
    "step_down": ("step_down_fraction", "step_down_min_pool", "step_down_s"),
    "step_up": ("step_up_replicas", "step_up_fraction", "step_up_s"),
    "warm_up": ("warmup_s",),
    "approval": ("large_fraction",),
}


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "none"


def guards_page() -> str:
    """Every guard in the order in which it is asked, with the settings that tune it."""
    fields = Settings().guards.model_dump()
    lines = [
        NOTE,
        "# Guards",
        "",
        "Every action is put before these guards twice, in this order: when it is decided, and again at the effect, on state",
        "observed afresh. A guard says no, or names the replica count it can live with; each refusal is recorded with the",
        "guard's name and its reason, and shown by `forecastle explain`. The settings are those of the section `guards`.",
        "",
        "| guard | what it holds | settings and defaults |",
        "|---|---|---|",
    ]
    for guard in ORDER:
        name = guard.__name__
        what = (guard.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        knobs = ", ".join(f"`{knob}` {_shown(fields[knob])}" for knob in KNOBS.get(name, ()))
        lines.append(f"| `{name}` | {_cell(' '.join(what.split()))} | {knobs} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "guards.md": guards_page,
    "settings.md": settings_page,
    "settings.schema.json": schema_file,
    "cli.md": cli_page,
    "ledger.md": ledger_page,
}


def stale() -> list[str]:
    """Names of the pages that are missing or differ from the code."""
    paths = {name: FOLDER / name for name in PAGES}
    return [
        name for name, page in PAGES.items() if not paths[name].exists() or paths[name].read_text(encoding="utf-8") != page()
    ]


def main() -> int:
    """Write the stale pages, or name them when called with ``--check``. Exit status 1 when one was only named."""
    names = stale()
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"docs/reference/{name} is stale; run 'make docs'")
        return 1 if names else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        (FOLDER / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
