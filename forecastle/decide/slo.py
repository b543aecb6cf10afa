"""Objectives from OpenSLO (v1) documents, so that a promise is written down once.

Read are the objective's target and how its budget is counted; what measures it stays with the tool that does, which also
exports how much of the error budget is left. How sizing uses both: `forecastle.decide.sizing.insured_quantile`.

Source: https://github.com/OpenSLO/OpenSLO, kind SLO of openslo/v1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecastle.errors import ConfigError
from forecastle.settings import SloSettings

VERSION = "openslo/v1"
BUDGETING = ("Occurrences", "Timeslices", "RatioTimeslices")
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """An objective of ``service``, which is the workload's name unless someone says otherwise."""

    service: str
    slo: SloSettings


def read(path: Path) -> tuple[Found, ...]:
    """Every objective of the SLOs in ``path``, in order; documents of other OpenSLO kinds are passed over.

    Raises ConfigError with file, line and what to write instead.
    """
    found = tuple(one for document in _documents(path) for one in _objectives(document))
    if not found:
        raise ConfigError(f"{path}:1: has no document with 'kind: SLO'; give the file that has one")
    return found


def as_settings(found: Sequence[Found], budget_metric: str = "") -> str:
    """YAML to paste into ``fleet.workloads``: per service its ``slo``, that of the strictest objective if it has several.

    The others stay as comments, since one workload insures against one objective.
    """
    strictest: dict[str, Found] = {}
    for one in found:
        if one.service not in strictest or one.slo.target > strictest[one.service].slo.target:
            strictest[one.service] = one
    lines = []
    for service, best in strictest.items():
        lines += [f"# workload {json.dumps(service)}", "slo:"]
        fields = best.slo.model_copy(update={"budget_metric": budget_metric}).model_dump(exclude_defaults=True)
        lines += [f"  {name}: {json.dumps(value)}" for name, value in fields.items()]
        others = [one.slo for one in found if one.service == service and one is not best]
        lines += [f"# less strict: {json.dumps(slo.name)}, target {slo.target:g}" for slo in others]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Node:
    """A mapping of a file that knows where its keys are."""

    path: Path
    value: Mapping[str, Any]
    line: int

    def at(self, key: str) -> int:
        """Line of ``key``, or that of the mapping where the key is missing."""
        marks = getattr(self.value, "lc", None)
        return marks.data[key][0] + 1 if marks is not None and marks.data and key in marks.data else self.line

    def wrong(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self.at(key)}: {key}: {what}")

    def text(self, key: str, fix: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, f"is missing or no text; {fix}")
        return value

    def inside(self, key: str) -> _Node:
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, f"is missing or no mapping; add '{key}:' with its fields")
        return _Node(self.path, value, self.at(key))


def _documents(path: Path) -> Iterator[_Node]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give an OpenSLO file in UTF-8") from error
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; split it")
    try:
        documents = list(YAML(typ="rt", pure=True).load_all(text))
    except (YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {getattr(error, 'problem', error)}") from None
    for document in documents:
        if document is None:
            continue
        line = document.lc.line + 1 if hasattr(document, "lc") else 1
        if not isinstance(document, dict):
            raise ConfigError(f"{path}:{line}: is no mapping; an OpenSLO document begins with 'apiVersion: {VERSION}'")
        yield _Node(path, document, line)


def _objectives(document: _Node) -> Iterator[Found]:
    version = document.text("apiVersion", f"write 'apiVersion: {VERSION}'")
    if version != VERSION:
        raise document.wrong("apiVersion", f"'{version}' is not read; convert the document to {VERSION}")
    if document.text("kind", "write 'kind: SLO'") != "SLO":
        return
    name = document.inside("metadata").text("name", "write 'name: checkout-latency'")
    spec = document.inside("spec")
    service = spec.text("service", "write the name of the workload, 'service: checkout'")
    budgeting = spec.text("budgetingMethod", f"write one of {', '.join(BUDGETING)}")
    if budgeting not in BUDGETING:
        raise spec.wrong("budgetingMethod", f"'{budgeting}' is unknown; write one of {', '.join(BUDGETING)}")
    objectives = spec.value.get("objectives")
    if not isinstance(objectives, list) or not objectives:
        raise spec.wrong("objectives", "is missing or empty; add '- target: 0.99'")
    lines: Any = objectives
    for i, objective in enumerate(objectives):
        if not isinstance(objective, dict):
            raise spec.wrong("objectives", f"entry {i + 1} is no mapping; write '- target: 0.99'")
        node = _Node(document.path, objective, lines.lc.data[i][0] + 1)
        label = objective.get("displayName") or name
        counted = "Occurrences" if budgeting == "Occurrences" else "Timeslices"
        yield Found(service, SloSettings(name=str(label), target=_target(node), budgeting=counted))


def _target(objective: _Node) -> float:
    """The target as a share. OpenSLO takes exactly one of ``target`` (0.99) and ``targetPercent`` (99)."""
    given = [key for key in ("target", "targetPercent") if key in objective.value]
    if len(given) != 1:
        raise objective.wrong("target", "write one of 'target: 0.99' and 'targetPercent: 99'")
    value = objective.value[given[0]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise objective.wrong(given[0], f"'{value}' is no number; write 0.99, or 99 for targetPercent")
    share = float(value) / (100.0 if given[0] == "targetPercent" else 1.0)
    if not 0.0 < share < 1.0:
        hint = "; did you mean targetPercent?" if given[0] == "target" and share > 1 else ""
        raise objective.wrong(given[0], f"{value:g} is not between 0 and {1 if given[0] == 'target' else 100}{hint}")
    return share
