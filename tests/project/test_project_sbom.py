"""The bill of materials names every pin once, with where it comes from, and nothing that is not there."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sbom = _module()


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    found: dict[str, str] = sbom.pins((ROOT / "constraints.txt").read_text())
    return found


@pytest.fixture(scope="module")
def document(pinned: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = sbom.sbom(pinned, "1.2.3")
    return found


def test_every_pin_is_a_component_and_nothing_else(document: dict[str, Any], pinned: dict[str, str]) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert {one["name"]: one["version"] for one in document["components"]} == pinned
    assert len(document["components"]) == len(lines)


def test_it_is_cyclonedx(document: dict[str, Any]) -> None:
    """What the schema of 1.6 asks of the fields that are used."""
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"])
    assert set(document) == {"bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"}
    root = document["metadata"]["component"]
    assert (root["type"], root["name"], root["version"]) == ("application", "forecastle", "1.2.3")
    for one in document["components"]:
        assert one["type"] == "library"
        assert one["purl"] == one["bom-ref"] == f"pkg:pypi/{one['name']}@{one['version']}"
        assert one["name"] == canonicalize_name(one["name"])
        for licence in one.get("licenses", []):
            assert set(licence) in ({"expression"}, {"license"})


def test_references_are_unique_and_lead_somewhere(document: dict[str, Any]) -> None:
    known = [document["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in document["components"])]
    assert len(set(known)) == len(known)
    assert [one["ref"] for one in document["dependencies"]] == known
    for one in document["dependencies"]:
        assert set(one["dependsOn"]) <= set(known)
        assert one["ref"] not in one["dependsOn"]


def test_what_needs_what_is_told(document: dict[str, Any], pinned: dict[str, str]) -> None:
    needs = {one["ref"]: one["dependsOn"] for one in document["dependencies"]}
    assert f"pkg:pypi/numpy@{pinned['numpy']}" in needs["forecastle"]
    assert f"pkg:pypi/pytest@{pinned['pytest']}" in needs["forecastle"], "with every extra of ours"
    assert f"pkg:pypi/pytest@{pinned['pytest']}" not in needs[f"pkg:pypi/contourpy@{pinned['contourpy']}"], "and none of theirs"
    assert f"pkg:pypi/pydantic-core@{pinned['pydantic-core']}" in needs[f"pkg:pypi/pydantic@{pinned['pydantic']}"]


def test_most_licences_are_known(document: dict[str, Any]) -> None:
    without = [one["name"] for one in document["components"] if "licenses" not in one]
    assert len(without) < 0.2 * len(document["components"]), without


def test_the_same_pins_give_the_same_bytes(document: dict[str, Any], pinned: dict[str, str]) -> None:
    again = sbom.sbom(dict(reversed(pinned.items())), "1.2.3")
    assert json.dumps(again) == json.dumps(document)
    assert sbom.sbom(pinned, "1.2.4")["serialNumber"] != document["serialNumber"]


def test_a_package_that_is_not_installed_is_named_without_its_licence() -> None:
    found = sbom.sbom({"no-such-package-here": "9.9"}, "1")
    (one,) = found["components"]
    assert one["purl"] == "pkg:pypi/no-such-package-here@9.9"
    assert "licenses" not in one


def test_another_version_than_the_pinned_is_refused(pinned: dict[str, str]) -> None:
    with pytest.raises(sbom.SbomError, match=r"not what is pinned: numpy .*; run: make setup, or: make lock"):
        sbom.sbom(pinned | {"numpy": "0.0.1"}, "1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("numpy>=2", r"line 1: 'numpy>=2' pins no version; write name==version"),
        ("# head\n\n-e .", r"line 3: '-e \.' pins no version"),
        ("a==1\nA==2", r"line 2: a is pinned to 1 already"),
        ("a @ https://example.org/a.whl", "pins no version"),
    ],
)
def test_a_line_that_pins_nothing_is_told(text: str, says: str) -> None:
    with pytest.raises(sbom.SbomError, match=says):
        sbom.pins(text)


def test_comments_markers_and_spellings_are_read() -> None:
    assert sbom.pins("# x\nRuamel.YAML==1 # why\nA_b==2 ; python_version > '3'\n\n") == {"ruamel-yaml": "1", "a-b": "2"}


@given(
    st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9]{0,8}\Z"), st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z"), max_size=6)
)
def test_pins_are_read_back(drawn: dict[str, str]) -> None:
    assert sbom.pins("\n".join(f"{name}=={version}" for name, version in drawn.items())) == drawn


@pytest.mark.parametrize(
    ("installed", "pinned", "same"),
    [("2.13.0+cpu", "2.13.0", True), ("2.13.0", "2.13.0", True), ("2.13.1", "2.13.0", False), ("2.13.0", "2.13.0+cpu", False)],
)
def test_a_build_is_the_version_it_is_a_build_of(installed: str, pinned: str, *, same: bool) -> None:
    assert sbom._is(installed, pinned) is same


def test_the_program_writes_it_and_says_what_is_wrong(tmp_path: Path) -> None:
    out, bad = tmp_path / "deep" / "sbom.cdx.json", tmp_path / "bad.txt"
    command = [sys.executable, str(ROOT / "deploy" / "sbom.py")]
    done = subprocess.run([*command, str(ROOT / "constraints.txt"), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(json.loads(out.read_text())['components'])} components" in done.stdout
    bad.write_text("numpy>=2\n")
    done = subprocess.run([*command, str(bad), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{bad}: line 1: 'numpy>=2' pins no version; write name==version, or run: make lock\n"
