"""Requests to the fake API server, taken apart as RBAC and the registry see them, and what can go wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from forecastle.testing.fake_kubernetes_selectors import matches_fields, matches_labels
from forecastle.testing.fake_kubernetes_store import SERVED, Json, Key, Refused, Served


class Call(NamedTuple):
    """A request as RBAC names it: ``resource`` with its subresource."""

    verb: str
    group: str
    resource: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request: an answer of ``status``, or with 0 none at all (the connection is reset).

    ``after``: the request has had its effect by then. ``hang``: nothing is said until the client gives up.
    """

    status: int = 0
    after: bool = False
    message: str = "injected"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One request, taken apart."""

    call: Call
    served: Served
    namespace: str
    name: str
    sub: str
    query: Mapping[str, str]
    body: Any
    content_type: str
    method: str

    @property
    def key(self) -> Key:
        """The object it is about."""
        return Key(self.served, self.namespace, self.name)

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be kept."""
        return self.query.get("dryRun") == "All"

    def selects(self, found: Json) -> bool:
        """Whether an object is one that its selectors ask for."""
        labels, fields = self.query.get("labelSelector", ""), self.query.get("fieldSelector", "")
        return matches_labels(found, labels) and matches_fields(found, fields)


def parsed(method: str, path: str, content: bytes, content_type: str) -> Request:
    """A request taken apart. Raises Refused 404 for a path that is not served."""
    url = urlsplit(path)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    parts = url.path.strip("/").split("/")
    api, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace, rest = (rest[1], rest[2:]) if rest[:1] == ["namespaces"] else ("", rest)
    plural, name, sub = (*rest, "", "", "")[:3]
    served = next((s for s in SERVED if (s.api, s.plural) == (api, plural)), None)
    if served is None or (sub == "scale" and not served.scale):
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    verbs = {"GET": "get", "PUT": "update", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
    verb = verbs[method]
    if verb == "get" and not name:
        verb = "watch" if query.get("watch", "").lower() in {"true", "1"} else "list"
    call = Call(verb, served.group, f"{plural}/{sub}" if sub else plural)
    body = json.loads(content) if content else None
    return Request(call, served, namespace, name, sub, query, body, content_type, method)
