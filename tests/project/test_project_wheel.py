"""The wheel holds the engine alone, and the engine alone starts: no module of it needs what only an extra installs."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Hides every installed distribution that the wheel's own requirements do not reach, as if it were not there.
WITHOUT_EXTRAS = """
import importlib.abc, importlib.metadata as metadata, re, sys

def requirements(name):
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
reached, waiting = set(), ["forecastle"]
while waiting:
    name = waiting.pop()
    if name not in reached:
        reached.add(name)
        waiting += requirements(name)
owners = metadata.packages_distributions()
hidden = {top for top, dists in owners.items() if not any(canonicalize_name(d) in reached for d in dists)}

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden: only an extra installs it)", name=fullname)

for name in [m for m in sys.modules if m.partition(".")[0] in hidden]:
    del sys.modules[name]
sys.meta_path.insert(0, Hide())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


SDKS = {
    "forecastle.clouds.aws": ("boto3", "botocore"),
    "forecastle.clouds.azure": ("azure",),
    "forecastle.clouds.gateway": ("kubernetes",),
    "forecastle.clouds.gcp": ("google", "googleapiclient", "httplib2"),
    "forecastle.clouds.kubernetes": ("kubernetes",),
    "forecastle.outlets.keda": ("grpc",),
    "forecastle.testing.fake_azure": ("azure", "jsonschema"),
    "forecastle.testing.fake_gcp": ("google", "googleapiclient", "httplib2"),
    "forecastle.testing.fake_kubernetes": ("kubernetes", "kubernetes_validate"),
}
"""Modules that are imported only where the configuration names them, and what each may need."""


def bare(unpacked: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the unpacked wheel first on the path and everything of the extras hidden."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FORECASTLE_")} | {"PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + code],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"forecastle"}
    assert len(tops) == 2


def test_the_wheel_carries_every_file_of_the_package_and_the_licence(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "forecastle"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = tracked.split() or [
        str(p.relative_to(ROOT)) for p in (ROOT / "forecastle").rglob("*.*") if "__pycache__" not in p.parts
    ]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = {file for file in files if (ROOT / file).exists()} - names
    assert missing == set()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "forecastle/py.typed" in names


def test_every_module_imports_without_the_extras(unpacked: Path, tmp_path: Path) -> None:
    code = """
import importlib, json, pkgutil, forecastle
problems, seen = {}, []
for found in pkgutil.walk_packages(forecastle.__path__, "forecastle."):
    try:
        seen.append(importlib.import_module(found.name).__file__)
    except Exception as error:
        problems[found.name] = repr(error)
print(json.dumps([problems, seen, sorted(hidden & {"torch", "mlflow", "prefect", "kafka", "pandas", "onnx", "fastapi"})]))
"""
    done = bare(unpacked, code, tmp_path)
    assert done.returncode == 0, done.stderr
    problems, seen, really_hidden = json.loads(done.stdout.splitlines()[-1])
    needing = {name: error for name, error in problems.items() if name.startswith(tuple(SDKS))}
    assert problems == needing, "only an adapter or an outlet may need an extra"
    for name, error in needing.items():
        own = next(sdks for start, sdks in SDKS.items() if name.startswith(start))
        assert any(f"No module named '{sdk}" in error for sdk in own), f"{name} needs more than {own}: {error}"
    assert len(seen) > 40
    assert all(path.startswith(str(unpacked)) for path in seen), "the wheel's files were imported, not the checkout's"
    assert really_hidden == ["fastapi", "kafka", "mlflow", "onnx", "pandas", "prefect", "torch"]


@pytest.mark.parametrize("arguments", [["--help"], ["check"], ["detect", "--help"]])
def test_the_command_answers_without_the_extras(unpacked: Path, tmp_path: Path, arguments: list[str]) -> None:
    code = f"""
sys.argv = ["forecastle", *{arguments!r}]
(entry,) = metadata.entry_points(group="console_scripts", name="forecastle")
entry.load()()
"""
    done = bare(unpacked, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: forecastle" in done.stdout or done.stdout.startswith("ok: ")


def test_a_command_that_needs_an_extra_says_which(unpacked: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    samples.write_text("timestamp,series_id,value\n0,shop/requests,1\n", encoding="utf-8")
    code = f"""
import forecastle.cli
sys.argv = ["forecastle", "publish", {str(samples)!r}]
forecastle.cli.main()
"""
    done = bare(unpacked, code, tmp_path)
    assert done.returncode == 2
    assert "pip install 'forecastle[stream]'" in done.stderr
