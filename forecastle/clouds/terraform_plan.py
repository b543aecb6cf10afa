"""What a saved plan would do, judged: only the pool's own resources, and nothing that the action does not mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forecastle.errors import Conflict, Denied
from forecastle.types import Kind

MOST_NAMED = 5
_IDLE = ({"no-op"}, {"read"})
_REPLACED = {"create", "delete"}


def covers(roots: Sequence[str], address: str) -> bool:
    """Whether ``address`` is one of ``roots``, an instance of it, or inside it, as Terraform's ``-target`` understands it."""
    return any(address == root or address.startswith((f"{root}[", f"{root}.")) for root in roots)


def changes(planned: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """Address and actions (``create``, ``update``, ``delete``; two for a replacement) of each resource that would change."""
    for resource in planned.get("resource_changes", ()):
        actions = frozenset(resource.get("change", {}).get("actions", ()))
        if actions and actions not in _IDLE:
            yield str(resource["address"]), actions


def judge(planned: Mapping[str, Any], roots: Sequence[str], kind: Kind, target: str) -> str:
    """What would change, in words. Raises Conflict for drift or other changes, Denied for a replacement by SCALE."""
    found = list(changes(planned))
    foreign = [f"{'/'.join(sorted(actions))} {address}" for address, actions in found if not covers(roots, address)]
    if foreign:
        raise Conflict(
            f"{target}: the plan would also {_named(foreign)}{_drifted(planned, roots)}; nothing was applied: "
            "bring configuration and resources together, or name them in `target.resources`"
        )
    replaced = [address for address, actions in found if actions == _REPLACED]
    if kind is Kind.SCALE and replaced:
        raise Denied(f"{target}: scaling would replace {_named(replaced)}; nothing was applied: do that by hand first")
    return _named([f"{'/'.join(sorted(actions))} {address}" for address, actions in found])


def _drifted(planned: Mapping[str, Any], roots: Sequence[str]) -> str:
    drift = [str(found["address"]) for found in planned.get("resource_drift", ()) if not covers(roots, str(found["address"]))]
    return f" (changed outside Terraform: {_named(drift)})" if drift else ""


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
