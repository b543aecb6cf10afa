"""What ships in configs/ can be started as it is, and what the project promises about itself in its own files holds."""

import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from forecastle.runtime.inventory import resolve

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
ENVIRONMENTS = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != "base.yaml")
MODELS = sorted((CONFIGS / "models").glob("*.yaml"))


Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(forecastle: Check) -> Check:
    def run(*configs: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return forecastle("check", *(part for path in configs for part in ("--config", str(path))), cwd=cwd)

    return run


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_passes_check_over_the_whole_folder(check: Check, environment: str, tmp_path: Path) -> None:
    done = check(CONFIGS, CONFIGS / environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"ok: [1-9]\d* workloads, [1-9]\d* sites, [1-9]\d* clouds\n", done.stdout)


def test_the_folder_alone_is_what_check_takes_by_default(check: Check, tmp_path: Path) -> None:
    explicit = check(CONFIGS, cwd=tmp_path)
    assert explicit.returncode == 0, explicit.stderr
    assert check(cwd=ROOT).stdout == explicit.stdout


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_import_strings_of_a_model_lead_somewhere(path: Path) -> None:
    data = YAML(typ="safe").load(path)
    strings = {name: text for name, text in data.items() if isinstance(text, str) and ":" in text}
    assert {"build", "train", "export"} <= set(strings)
    for text in strings.values():
        assert callable(resolve(text)), text


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in found}


def test_constraints_pin_exact_public_versions_and_name_no_host_or_path() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line), line


def test_constraints_satisfy_everything_that_development_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    own = [line for extra in ("dev", "train", "stream") for line in extras[extra]] + project["dependencies"]
    pinned, seen = pins(), {("forecastle", "dev")}
    waiting = [("forecastle", "", line) for line in own if not line.startswith("forecastle")]
    while waiting:
        parent, extra, text = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name}, needed by {parent}, is not pinned; run 'make lock'"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{text}, needed by {parent}"
        for inner in {"", *requirement.extras} - {i for n, i in seen if n == name}:
            seen.add((name, inner))
            waiting += [(name, inner, line) for line in requires(name) or []]
    assert len(seen) > 100


def test_the_extras_are_those_the_documentation_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"train", "stream", "kubernetes", "aws", "gcp", "azure", "keda", "console", "holidays", "ray", "bench", "dev"}
    assert set(project["optional-dependencies"]) == extras
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{extra}`" in readme for extra in extras)


def test_make_help_lists_every_target_and_ci_is_lint_then_test() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines()}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    assert listed == phony | {"bench-%"}
    plan = subprocess.run(["make", "--dry-run", "ci"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = re.findall(r"ruff check|ruff format --check|mypy|lint-imports|pytest", plan)
    assert steps == ["ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"]
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make ci")
    subprocess.run(["sh", "-n", str(script)], check=True)
