"""A software bill of materials: every pinned dependency as CycloneDX 1.6 JSON, with licence and what needs what.

Names and versions are those of ``constraints.txt``; licences and dependencies are read from what is installed, and an installed
version that is not the pinned one is an error. The same inputs give the same bytes: nothing tells the time.

    python deploy/sbom.py constraints.txt dist/sbom.cdx.json
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "forecastle"
LONGEST_LICENCE = 100
"""A longer licence field is the text of the licence, not its name."""


class SbomError(Exception):
    """The message says what to do."""


def pins(text: str) -> dict[str, str]:
    """Canonical name to version of every ``name==version`` line. Raises SbomError for a line that pins nothing."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)(\s*;.*)?", said)
        if match is None:
            raise SbomError(f"line {number}: '{said}' pins no version; write name==version, or run: make lock")
        name = canonicalize_name(match[1])
        if found.setdefault(name, match[2]) != match[2]:
            raise SbomError(f"line {number}: {name} is pinned to {found[name]} already; keep one")
    return found


def sbom(pinned: dict[str, str], version: str) -> dict[str, Any]:
    """The document for ``forecastle`` of that version. Raises SbomError when something else than pinned is installed."""
    installed = {str(canonicalize_name(one.metadata["Name"])): one for one in metadata.distributions() if one.metadata["Name"]}
    wrong = [f"{n} {installed[n].version}" for n, v in pinned.items() if n in installed and not _is(installed[n].version, v)]
    if wrong:
        raise SbomError(f"installed is not what is pinned: {', '.join(sorted(wrong))}; run: make setup, or: make lock")
    components = [_component(name, pinned[name], installed.get(name)) for name in sorted(pinned)]
    root = {"type": "application", "bom-ref": ROOT, "name": ROOT, "version": version}
    ours = installed.get(ROOT)
    needs = {ROOT: _needs(ours, pinned, ours.metadata.json.get("provides_extra", []) if ours else [])}
    needs |= {_ref(name, pinned[name]): _needs(installed.get(name), pinned) for name in sorted(pinned)}
    body = {
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": refs} for ref, refs in needs.items()],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return head | body


def _is(installed: str, pinned: str) -> bool:
    """Whether they are one version; a build of it (``2.13.0+cpu``) is, unless the pin names another build."""
    return installed == pinned or installed.partition("+")[0] == pinned


def _component(name: str, version: str, installed: metadata.Distribution | None) -> dict[str, Any]:
    ref = _ref(name, version)
    found: dict[str, Any] = {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
    if installed is not None and (licence := _licence(installed)):
        found["licenses"] = [licence]
    return found


def _ref(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _licence(installed: metadata.Distribution) -> dict[str, Any]:
    """The SPDX expression where the package has one, else the name it gives, else its classifier."""
    fields = installed.metadata.json
    if expression := fields.get("license_expression"):
        return {"expression": expression}
    classifiers = [text.rpartition(" :: ")[2] for text in fields.get("classifier", []) if text.startswith("License ::")]
    name = str(fields.get("license", "")).strip()
    if not name or len(name) > LONGEST_LICENCE or "\n" in name:
        name = classifiers[0] if classifiers else ""
    return {"license": {"name": name}} if name else {}


def _needs(installed: metadata.Distribution | None, pinned: dict[str, str], extras: Sequence[str] = ()) -> list[str]:
    """References of the pinned ones that it requires here, alone and with the ``extras``."""
    asked = [Requirement(text) for text in (installed.requires or () if installed else ())]
    here_now = {name: str(value) for name, value in default_environment().items()}
    worlds = [here_now | {"extra": extra} for extra in ("", *extras)]
    here = [one for one in asked if one.marker is None or any(one.marker.evaluate(world) for world in worlds)]
    return [_ref(name, pinned[name]) for name in sorted({canonicalize_name(one.name) for one in here} & set(pinned))]


def main(constraints: str, out: str) -> None:
    """Write the document."""
    document = sbom(pins(Path(constraints).read_text(encoding="utf-8")), metadata.version(ROOT))
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{target}: {len(document['components'])} components\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except SbomError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
