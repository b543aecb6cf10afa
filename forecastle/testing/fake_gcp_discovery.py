"""What Google Cloud's discovery documents say about a request, held against every request that the fake receives.

The documents are those inside google-api-python-client, which the client under test was generated from too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

Json: TypeAlias = dict[str, Any]
DOCUMENTS = {"compute": "compute.v1.json", "run": "run.v2.json", "container": "container.v1.json"}
_GRPC = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED"}
_GRPC |= {412: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}
_LONG = {"int64": r"-?\d{1,19}", "uint64": r"\d{1,20}", "byte": r"[A-Za-z0-9+/_=-]*"}


class Refused(Exception):
    """An answer that is an error: its HTTP status, Google's ``reason`` for it, and the words."""

    def __init__(self, code: int, reason: str, message: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def answer(self) -> Json:
        """As the APIs say it."""
        error = {"message": self.message, "domain": "global", "reason": self.reason}
        return {"error": {"code": self.code, "message": self.message, "errors": [error], "status": _GRPC.get(self.code, "")}}


@dataclass(frozen=True, slots=True)
class Call:
    """A request that its discovery document allows: the method's id, and its ``path`` and ``query`` parameters."""

    method: str
    path: Mapping[str, str]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Json = field(default_factory=dict)


@cache
def document(api: str) -> Json:
    """A discovery document, as google-api-python-client has it."""
    where = files("googleapiclient") / "discovery_cache" / "documents" / DOCUMENTS[api]
    found: Json = json.loads(where.read_text())
    return found


class Reader:
    """Reads requests for the methods named in ``served``; all others are 404, as if they were not there."""

    def __init__(self, served: Iterable[str]) -> None:
        self._routes = [self._route(method) for method in served]

    def read(self, verb: str, url: str, content: bytes) -> Call:
        """The call. Raises Refused for whatever the document does not allow."""
        parts = urlsplit(url)
        for http_method, pattern, method in self._routes:
            found = pattern.fullmatch(unquote(parts.path).lstrip("/"))
            if found and http_method == verb:
                api = method["id"].split(".")[0]
                query = _query(api, method, parse_qsl(parts.query, keep_blank_values=True))
                return Call(method["id"], found.groupdict(), query, _body(api, method, content))
        raise Refused(404, "notFound", f"no method for {verb} {parts.path}")

    @staticmethod
    def _route(method_id: str) -> tuple[str, re.Pattern[str], Json]:
        api, *collections, name = method_id.split(".")
        at = document(api)
        for collection in collections:
            at = at["resources"][collection]
        method: Json = at["methods"][name]
        path = document(api)["servicePath"] + method.get("flatPath", method["path"])
        pattern = "".join(f"(?P<{p[1:-1]}>[^/:]+)" if p[:1] == "{" else re.escape(p) for p in re.split(r"(\{\w+\})", path))
        return method["httpMethod"], re.compile(pattern), method


def _query(api: str, method: Json, given: list[tuple[str, str]]) -> Json:
    allowed = {k: v for k, v in method["parameters"].items() if v["location"] == "query"}
    known, read = {**document(api)["parameters"], **allowed}, {}
    for name, text in given:
        if name not in known:
            raise Refused(400, "invalidParameter", f"{method['id']}: unknown parameter '{name}'")
        read[name] = _parameter(name, known[name], text)
    missing = [k for k, v in allowed.items() if v.get("required") and k not in read]
    if missing:
        raise Refused(400, "required", f"{method['id']}: required parameters are missing: {missing}")
    return read


def _parameter(name: str, schema: Json, text: str) -> Any:
    value: Any = text
    if schema["type"] == "integer":
        value = int(text) if re.fullmatch(r"-?\d+", text) else text
    elif schema["type"] == "boolean":
        value = {"true": True, "false": False}.get(text, text)
    _typed(name, schema, value)
    return value


def _body(api: str, method: Json, content: bytes) -> Json:
    if "request" not in method:
        if content:
            raise Refused(400, "badRequest", f"{method['id']}: takes no body")
        return {}
    try:
        body = json.loads(content)
    except ValueError as error:
        raise Refused(400, "parseError", str(error)) from error
    _checked(api, method["id"], method["request"], body, method["id"])
    read: Json = body
    return read


def _checked(api: str, name: str, schema: Json, value: Any, method: str) -> None:
    """Raises Refused for an unknown field, a value of the wrong type, and one that only the server writes."""
    if "$ref" in schema:
        schema = document(api)["schemas"][schema["$ref"]] | {k: v for k, v in schema.items() if k == "readOnly"}
    if schema.get("readOnly"):
        raise Refused(400, "invalid", f"{name}: output only")
    _typed(name, schema, value)
    if isinstance(value, list):
        for i, item in enumerate(value):
            _checked(api, f"{name}[{i}]", schema["items"], item, method)
    if isinstance(value, dict):
        _members(api, name, schema, value, method)


def _members(api: str, name: str, schema: Json, value: Json, method: str) -> None:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for key, member in value.items():
        if key not in properties and others is None:
            raise Refused(400, "invalid", f"Invalid JSON payload received. Unknown name \"{key}\" at '{name}'")
        _checked(api, f"{name}.{key}", properties.get(key, others), member, method)
    missing = [k for k, v in properties.items() if method in v.get("annotations", {}).get("required", ()) and k not in value]
    if missing:
        raise Refused(400, "required", f"{name}: {missing}")


def _typed(name: str, schema: Json, value: Any) -> None:
    kind = schema.get("type", "object")
    if kind == "any":
        return
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise Refused(400, "invalid", f"{name}: {value!r} is no {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise Refused(400, "invalid", f"{name}: {value!r} is none of {schema['enum']}")
    pattern = schema.get("pattern") or (_LONG.get(schema.get("format", "")) if kind == "string" else None)
    if pattern and not re.fullmatch(pattern, str(value)):
        raise Refused(400, "invalid", f"{name}: {value!r} does not match {pattern}")
    if isinstance(value, int) and schema.get("format") in {"int32", "uint32"} and not -(2**31) <= value < 2**31:
        raise Refused(400, "invalid", f"{name}: {value} is out of range")
