"""Which classes of error are injected into which adapter: read off what the tests say of themselves.

A case is a row of a parametrized test that names the error it expects, or how the answer gets lost; or a test that says with
`injects` what it injects.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from forecastle.errors import CloudUnavailable, Conflict, Denied, NotFound, QuotaExceeded
from forecastle.testing.fake_kubernetes_requests import Fault

CLASSES = ("throttle", "timeout", "5xx", "conflict", "not found", "permission", "quota", "partial")
"""``timeout``: no answer, or too late; ``partial``: accepted, and not all of it carried out."""

Test = TypeVar("Test", bound=Callable[..., Any])
_BY_ERROR = {Conflict: "conflict", NotFound: "not found", Denied: "permission", QuotaExceeded: "quota"}
_THROTTLED = re.compile(r"429|throttl|too ?many ?requests|rateLimit", re.IGNORECASE)
_SERVER = re.compile(r"\b5\d\d\b")
_UNHEARD = {"unanswered", "slow", "hang"}


def injects(*classes: str) -> Callable[[Test], Test]:
    """Says of a test which classes of error it injects."""
    assert set(classes) <= set(CLASSES)

    def said(test: Test) -> Test:
        test.__dict__["injects"] = classes
        return test

    return said


def cases(adapter: str) -> Mapping[str, set[str]]:
    """The tests of an adapter by the class of error that they inject."""
    found = defaultdict[str, set[str]](set)
    for path in sorted(Path(__file__).parent.glob(f"test_clouds_{adapter}*.py")):
        module = sys.modules.get(f"tests.clouds.{path.stem}") or importlib.import_module(path.stem)
        for test in own_tests(module):
            for name in {*test.__dict__.get("injects", ()), *filter(None, map(class_of, rows(test)))}:
                found[name].add(f"{path.stem}::{test.__name__}")
    return found


def own_tests(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """The test functions that are the module's own and are not left out."""
    for name, test in vars(module).items():
        marks = {mark.name for mark in getattr(test, "pytestmark", ())}
        if name.startswith("test_") and test.__module__ == module.__name__ and not marks & {"skip", "skipif", "xfail"}:
            yield test


def rows(test: Callable[..., Any]) -> Iterator[tuple[Any, ...]]:
    """What it is parametrized with, row by row."""
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            for row in mark.args[1]:
                yield tuple(row) if isinstance(row, (tuple, list)) else (row,)


def class_of(row: tuple[Any, ...]) -> str:
    """The class of error that a row is about, '' for none."""
    error = next((value for value in row if isinstance(value, type) and issubclass(value, Exception)), None)
    if error in _BY_ERROR:
        return _BY_ERROR[error]
    if error not in {None, CloudUnavailable}:
        return ""
    words = " ".join(map(_told, row))
    if _THROTTLED.search(words):
        return "throttle" if error else ""
    if _SERVER.search(words):
        return "5xx"
    return "timeout" if _UNHEARD & set(words.split()) else ""


def _told(value: Any) -> str:
    if isinstance(value, Fault):
        return "hang" if value.hang else str(value.status or "unanswered")
    return value if isinstance(value, str) else ""
