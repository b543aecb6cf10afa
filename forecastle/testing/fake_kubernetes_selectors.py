"""Label and field selectors as the API's queries spell them."""

from __future__ import annotations

import re
from typing import Any

from forecastle.testing.fake_kubernetes_store import Refused

_SETS = re.compile(r"(?P<key>\S+) (?P<how>in|notin) \((?P<values>[^)]*)\)")
_FIELDS = {"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"}


def matches_labels(found: dict[str, Any], selector: str) -> bool:
    """Whether the object's labels satisfy every term. Raises Refused 400 for one that cannot be read."""
    labels = found["metadata"].get("labels") or {}
    return all(_holds(term, labels) for term in re.split(r",(?![^(]*\))", selector) if term)


def matches_fields(found: dict[str, Any], selector: str) -> bool:
    """Whether the object's fields have these values. Raises Refused 400 for a field that cannot be selected by."""
    for term in filter(None, selector.split(",")):
        path, _, value = term.partition("=")
        if path not in _FIELDS:
            raise Refused(400, "BadRequest", f"field label not supported: {path}")
        node: Any = found
        for part in path.split("."):
            node = (node or {}).get(part)
        if (node or "") != value.removeprefix("="):
            return False
    return True


def _holds(term: str, labels: dict[str, str]) -> bool:
    if match := _SETS.fullmatch(term):
        inside = labels.get(match["key"]) in match["values"].split(",")
        return inside if match["how"] == "in" else not inside
    if "!=" in term:
        key, _, value = term.partition("!=")
        return labels.get(key) != value
    if "=" in term:
        key, _, value = term.partition("=")
        return labels.get(key) == value.removeprefix("=")
    if not re.fullmatch(r"!?[\w./-]+", term):
        raise Refused(400, "BadRequest", f"unable to parse requirement: {term}")
    return term[1:] not in labels if term.startswith("!") else term in labels
