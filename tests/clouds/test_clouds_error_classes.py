"""Every class of error is injected into every adapter, or the reference says why it cannot occur there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from error_classes import CLASSES, cases, class_of, injects, own_tests, rows

import forecastle.clouds
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, NotFound
from forecastle.testing.fake_kubernetes_requests import Fault

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "clouds.md"


def shipped() -> Iterator[str]:
    """The adapters there are: whatever can be opened."""
    for path in sorted(Path(str(forecastle.clouds.__file__)).parent.glob("*.py")):
        if re.search(r"^open_cloud\b|^def open_cloud\b", path.read_text(), re.MULTILINE):
            yield path.stem
    assert hasattr(import_module("forecastle.runtime.edge"), "open_cloud")
    yield "edge"


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a page, cells without what surrounds them."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        yield [lines[0], *lines[2:]]


@pytest.fixture(scope="module")
def matrix() -> dict[str, dict[str, str]]:
    """What the reference says of each adapter and class: ``yes``, or why not."""
    (found,) = [table for table in tables(REFERENCE.read_text()) if table[0] == ["adapter", *CLASSES]]
    return {row[0]: dict(zip(CLASSES, row[1:], strict=True)) for row in found[1:]}


def test_the_reference_has_every_adapter_that_is_shipped(matrix: dict[str, dict[str, str]]) -> None:
    every = REFERENCE.read_text()
    assert sorted(matrix) == sorted(shipped())
    assert sorted(re.findall(r"^\| `forecastle\.(?:clouds|runtime)\.(\w+):open_cloud`", every, re.MULTILINE)) == sorted(matrix)


@pytest.mark.parametrize("adapter", list(shipped()))
def test_each_class_of_error_is_injected_or_cannot_occur(adapter: str, matrix: dict[str, dict[str, str]]) -> None:
    found = cases(adapter)
    for name, said in matrix[adapter].items():
        if found.get(name):
            assert said == "yes", f"{adapter}, {name}: {sorted(found[name])} inject it, the reference says: {said}"
        else:
            assert re.fullmatch(r"no: \w.{8,}", said), (
                f"{adapter}, {name}: add a test, or say in the reference why it cannot occur"
            )


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (("400 Throttling", CloudUnavailable, False), "throttle"),
        (("503 backendError", CloudUnavailable, True), "5xx"),
        ((Fault(503), CloudUnavailable, "503"), "5xx"),
        ((Fault(504),), "5xx"),
        ((Fault(hang=True),), "timeout"),
        (("unanswered",), "timeout"),
        (("409 Conflict", Conflict, False), "conflict"),
        ((Fault(404), NotFound, "404"), "not found"),
        (("400 odd", ConfigError, False), ""),
        (("429 TooManyRequests",), ""),
        (("group",), ""),
        ((5003,), ""),
    ],
)
def test_what_a_row_is_about(row: tuple[object, ...], name: str) -> None:
    assert class_of(row) == name


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [("partial", "yes", "add a test"), ("partial", "no: ", "add a test"), ("quota", "no: never seen", "inject it")],
)
def test_a_table_that_says_otherwise_is_found_out(name: str, said: str, why: str, matrix: dict[str, dict[str, str]]) -> None:
    with pytest.raises(AssertionError, match=f"gateway, {name}: .*{why}"):
        test_each_class_of_error_is_injected_or_cannot_occur("gateway", {"gateway": {**matrix["gateway"], name: said}})


def test_a_test_that_is_left_out_counts_for_nothing() -> None:
    def test_one() -> None: ...

    def test_two() -> None: ...

    module = ModuleType("made")
    for test in (injects("quota")(test_one), pytest.mark.skip(reason="slow")(test_two)):
        test.__module__ = "made"
        setattr(module, test.__name__, test)
    assert list(own_tests(module)) == [test_one]
    with pytest.raises(AssertionError):
        injects("weather")


def test_rows_are_those_of_every_mark() -> None:
    assert len(list(rows(test_what_a_row_is_about))) == 12
    assert list(rows(test_rows_are_those_of_every_mark)) == []
