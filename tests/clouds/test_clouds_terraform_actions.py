"""What SCALE and ROLLBACK do to a directory under Terraform, and what is refused before anything is applied."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from error_classes import injects
from terraform_worlds import CONFIGURATION, Terraform, terraform

from forecastle.clouds.terraform_journal import Journal
from forecastle.clouds.terraform_plan import covers, judge
from forecastle.errors import ConfigError, Conflict, Denied, NotFound, QuotaExceeded, Unsupported
from forecastle.types import Kind, Pool


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    return terraform(tmp_path_factory.mktemp("applied"))


@pytest.fixture
def here(applied: Terraform, tmp_path: Path) -> Terraform:
    """A directory of its own, with three web replicas that exist."""
    shutil.copytree(applied.folder, tmp_path / "infra")
    return replace(applied, folder=tmp_path / "infra")


def untouched(here: Terraform, serial: int, asked: dict[str, Any]) -> bool:
    """Nothing was applied, nothing is asked for, and nothing is under way."""
    return (here.serial(), here.asked(), Journal(here.folder).pending()) == (serial, asked, None)


def test_more_replicas_leave_those_there_alone(here: Terraform) -> None:
    before = here.ids()
    receipt = here.do(Kind.SCALE, 5)
    assert not receipt.already
    assert receipt.detail == "create terraform_data.web[3], create terraform_data.web[4]"
    assert here.ids()[:3] == before
    assert here.seen().replicas == 5
    assert "No changes" in here.run("plan", "-input=false", "-no-color")
    assert here.asked() == {"replicas": 5}


def test_fewer_replicas_take_the_last(here: Terraform) -> None:
    before = here.ids()
    here.do(Kind.SCALE, 1)
    assert here.ids() == before[:1]
    here.do(Kind.SCALE, 0)
    assert (here.ids(), here.seen().replicas) == ([], 0)


def test_two_pools_keep_their_own_variables(here: Terraform) -> None:
    before = here.seen(here.workers).version
    here.do(Kind.SCALE, 4)
    assert here.seen(here.workers).version == before
    here.do(Kind.SCALE, 1, here.workers)
    assert here.asked() == {"replicas": 4, "workers": 1}
    assert (here.seen().replicas, here.seen(here.workers).replicas) == (4, 1)


def test_a_rollback_sets_the_release(here: Terraform) -> None:
    before = here.seen()
    assert before.release == "v1"
    receipt = here.do(Kind.ROLLBACK, "v0")
    assert receipt.detail.startswith("update terraform_data.web[0]")
    assert (here.seen().release, here.seen().replicas) == ("v0", 3)
    assert here.seen().version != before.version


def test_a_rollback_to_what_runs_is_already_so(here: Terraform) -> None:
    assert here.do(Kind.ROLLBACK, "v1").already
    assert here.asked() == {}


def test_a_rollback_needs_a_release_variable(here: Terraform) -> None:
    with pytest.raises(Unsupported, match=r"target\.release"):
        here.do(Kind.ROLLBACK, "v0", here.workers)


def test_a_rollback_of_a_changed_pool_is_a_conflict(here: Terraform) -> None:
    action = here.action(Kind.ROLLBACK, "v0")
    here.do(Kind.SCALE, 4)
    with pytest.raises(Conflict, match="observe and plan again"):
        here.connect().apply(action, here.pool, token=action.id)


def test_a_change_by_hand_shows_in_the_version(here: Terraform) -> None:
    before = here.seen()
    here.run("apply", "-auto-approve", "-replace=terraform_data.web[1]")
    assert here.seen().version != before.version
    assert here.seen().replicas == before.replicas


def test_other_changes_are_a_conflict_that_names_them(here: Terraform) -> None:
    here.write(CONFIGURATION.replace("small", "large"))
    serial = here.serial()
    with pytest.raises(Conflict, match=r"also update terraform_data\.database; nothing was applied"):
        here.do(Kind.SCALE, 4)
    assert untouched(here, serial, {})
    assert here.seen().replicas == 3


def test_a_resource_that_went_missing_is_a_conflict(here: Terraform) -> None:
    here.run("state", "rm", "terraform_data.worker[0]")
    serial = here.serial()
    with pytest.raises(Conflict, match=r"create terraform_data\.worker\[0\]"):
        here.do(Kind.SCALE, 4)
    assert untouched(here, serial, {})


def test_what_was_asked_before_is_asked_again_after_a_refusal(here: Terraform) -> None:
    here.do(Kind.SCALE, 4)
    here.write(CONFIGURATION.replace("small", "large"))
    serial = here.serial()
    with pytest.raises(Conflict):
        here.do(Kind.SCALE, 6)
    assert untouched(here, serial, {"replicas": 4})


def test_a_refused_token_is_unused(here: Terraform) -> None:
    here.write(CONFIGURATION.replace("small", "large"))
    action = here.action(Kind.SCALE, 4)
    with pytest.raises(Conflict):
        here.connect().apply(action, here.pool, token=action.id)
    here.write(CONFIGURATION)
    assert not here.connect().apply(action, here.pool, token=action.id).already
    assert len(here.ids()) == 4


def test_scaling_that_would_replace_is_denied(here: Terraform) -> None:
    here.write(CONFIGURATION.replace("input = var.release", "input = var.release\n triggers_replace = var.replicas"))
    serial = here.serial()
    with pytest.raises(Denied, match=r"replace terraform_data\.web\[0\]"):
        here.do(Kind.SCALE, 4)
    assert untouched(here, serial, {})


def test_a_variable_that_does_nothing_is_told(here: Terraform) -> None:
    here.write(CONFIGURATION.replace("count = var.replicas", "count = 3"))
    with pytest.raises(ConfigError, match="the variable changes nothing"):
        here.do(Kind.SCALE, 4)
    assert here.asked() == {}


@pytest.mark.parametrize("desired", ["4", True, -1, 2.0], ids=str)
def test_only_whole_numbers_are_replicas(here: Terraform, desired: Any) -> None:
    with pytest.raises(Unsupported, match="no number of replicas"):
        here.do(Kind.SCALE, desired)


def test_the_quota_holds_before_terraform_is_asked(here: Terraform) -> None:
    serial = here.serial()
    with pytest.raises(QuotaExceeded, match="13 replicas asked for, the quota is 12"):
        here.do(Kind.SCALE, 13)
    assert untouched(here, serial, {})


def test_a_replica_of_its_own_is_unsupported(here: Terraform) -> None:
    action = replace(here.action(Kind.SCALE, 4), replica="terraform_data.web[0]")
    with pytest.raises(Unsupported):
        here.connect().apply(action, here.pool, token=action.id)


def test_secrets_are_neither_kept_nor_told(here: Terraform) -> None:
    receipt, folder = here.do(Kind.SCALE, 4), here.folder / ".forecastle"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["journal.json", "lock"]
    kept = "".join(path.read_text() for path in folder.iterdir())
    assert "hunter2" not in f"{receipt} {here.seen()} {kept} {here.asked()}"


def test_another_name_of_the_program(here: Terraform, tmp_path: Path) -> None:
    tofu = tmp_path / "tofu"
    shutil.copy(here.binary, tofu)
    assert here.connect(binary=str(tofu)).observe(here.pool).replicas == 3


# --- what cannot be observed ---------------------------------------------------------------------------------------------


def test_never_applied_is_not_found(tmp_path: Path) -> None:
    fresh = terraform(tmp_path, applied=False)
    with pytest.raises(NotFound, match="nothing was ever applied"):
        fresh.seen()


@pytest.mark.parametrize("output", ["absent", "release", "password"])
def test_an_output_that_is_no_number_is_not_found(here: Terraform, output: str) -> None:
    with pytest.raises(NotFound, match=f"no output '{output}'") as found:
        here.seen(here.pool_of("replicas", "web", output=output))
    assert "hunter2" not in str(found.value)


def test_ready_replicas_have_an_output_of_their_own(here: Terraform) -> None:
    seen = here.seen(here.pool_of("replicas", "web", ready="workers"))
    assert (seen.replicas, seen.ready) == (3, 2)


def test_no_more_are_ready_than_there_are(here: Terraform) -> None:
    seen = here.seen(here.pool_of("workers", "worker", ready="replicas"))
    assert (seen.replicas, seen.ready) == (2, 2)


@pytest.mark.parametrize("missing", ["directory", "variable", "resources"])
def test_an_incomplete_target_says_what_to_write(here: Terraform, missing: str) -> None:
    target = {name: value for name, value in here.pool.target.items() if name != missing}
    with pytest.raises(ConfigError, match=rf"target\.{missing} is missing; write target: "):
        here.seen(replace(here.pool, target=target))


@pytest.mark.parametrize("resources", ["", " ", ",", " , "])
def test_no_resources_are_not_all_resources(here: Terraform, resources: str) -> None:
    pool = here.pool_of("replicas", "web")
    with pytest.raises(ConfigError, match=r"target\.resources"):
        here.do(Kind.SCALE, 4, replace(pool, target={**pool.target, "resources": resources}))


@injects("not found")
def test_a_directory_that_is_not_there(here: Terraform) -> None:
    pool = replace(here.pool, target={**here.pool.target, "directory": str(here.folder / "none")})
    action = here.action(Kind.SCALE, 4)
    with pytest.raises(NotFound, match="no directory"):
        here.connect().apply(action, pool, token=action.id)
    assert not (here.folder / "none").exists()


# --- the plan, judged ----------------------------------------------------------------------------------------------------

POOL = Pool("web", "shop", "fra", "terraform", 0.1)


@pytest.mark.parametrize(
    ("root", "address", "inside"),
    [
        ("aws_asg.web", "aws_asg.web", True),
        ("aws_asg.web", "aws_asg.web[0]", True),
        ("aws_asg.web", 'aws_asg.web["a"]', True),
        ("aws_asg.web", "aws_asg.web2", False),
        ("aws_asg.web", "aws_asg.we", False),
        ("aws_asg.web", "module.x.aws_asg.web", False),
        ("module.web", "module.web.aws_asg.this[0]", True),
        ("module.web", "module.web[1].aws_asg.this", True),
        ("module.web", "module.website.aws_asg.this", False),
        ("aws_asg.web[1]", "aws_asg.web[1]", True),
        ("aws_asg.web[1]", "aws_asg.web[10]", False),
    ],
)
def test_which_addresses_belong_to_a_pool(root: str, address: str, inside: bool) -> None:
    assert covers((root,), address) is inside


def plan(*changes: tuple[str, list[str]], drift: tuple[str, ...] = ()) -> dict[str, Any]:
    changed = [{"address": address, "change": {"actions": actions}} for address, actions in changes]
    return {"resource_changes": changed, "resource_drift": [{"address": address} for address in drift]}


def test_reading_and_doing_nothing_are_no_changes() -> None:
    assert judge(plan(("a.b", ["no-op"]), ("data.c.d", ["read"])), ("x.y",), Kind.SCALE, "web") == ""


@pytest.mark.parametrize("order", [["create", "delete"], ["delete", "create"]])
def test_a_replacement_in_either_order(order: list[str]) -> None:
    planned = plan(("x.y", order))
    with pytest.raises(Denied, match=r"would replace x\.y"):
        judge(planned, ("x.y",), Kind.SCALE, "web")
    assert judge(planned, ("x.y",), Kind.ROLLBACK, "web") == "create/delete x.y"


def test_drift_is_told_with_what_it_leads_to() -> None:
    planned = plan(("x.y", ["update"]), ("a.b", ["update"]), drift=("a.b", "x.y"))
    with pytest.raises(Conflict, match=r"also update a\.b \(changed outside Terraform: a\.b\)"):
        judge(planned, ("x.y",), Kind.SCALE, "web")


def test_many_others_are_counted() -> None:
    planned = plan(*((f"a.b[{i}]", ["delete"]) for i in range(9)))
    with pytest.raises(Conflict, match=r"delete a\.b\[4\] and 4 more"):
        judge(planned, ("x.y",), Kind.SCALE, "web")


# --- a pool that is a module ---------------------------------------------------------------------------------------------

MODULE = """
variable "count_of" { type = number }
resource "terraform_data" "this" {
  count = var.count_of
}
output "count_of" { value = length(terraform_data.this) }
"""
ROOT_MODULE = """
variable "replicas" { type = number }
module "web" {
  source   = "./web"
  count_of = var.replicas
}
module "website" {
  source   = "./web"
  count_of = 1
}
output "replicas" { value = module.web.count_of }
"""


def test_a_module_is_a_pool_with_all_that_is_in_it(tmp_path: Path) -> None:
    here = terraform(tmp_path, configuration=ROOT_MODULE, applied=False)
    (here.folder / "web").mkdir()
    (here.folder / "web" / "main.tf").write_text(MODULE)
    here.run("init", "-input=false")
    here.run("apply", "-input=false", "-auto-approve")
    pool = replace(here.pool_of("replicas", "web"), target={**here.pool.target, "resources": "module.web", "release": ""})
    before = here.seen(pool)
    assert here.do(Kind.SCALE, 4, pool).detail == "create module.web.terraform_data.this[3]"
    scaled = here.seen(pool)
    here.run("apply", "-auto-approve", "-replace=module.website.terraform_data.this[0]")
    assert here.seen(pool).version == scaled.version != before.version
    here.run("apply", "-auto-approve", "-replace=module.web.terraform_data.this[0]")
    assert here.seen(pool).version != scaled.version
