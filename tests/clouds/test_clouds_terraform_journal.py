"""The journal of a Terraform directory: whatever happens in whatever order, the variables file asks for what was applied."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.clouds.terraform_journal import FOLDER, KEPT, VARIABLES, Journal, Pending

STEPS = st.lists(
    st.tuples(st.sampled_from(["replicas", "workers", "release"]), st.integers(0, 9), st.booleans()), min_size=1, max_size=5
)


def asked(folder: Path) -> dict[str, Any]:
    path = folder / VARIABLES
    return dict(json.loads(path.read_text())) if path.exists() else {}


def begun(journal: Journal) -> Pending:
    found = journal.pending()
    assert found is not None
    return found


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_the_variables_are_those_that_had_their_effect(steps: list[tuple[str, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, applied, used = Path(name), dict[str, int](), set[str]()
        for number, (variable, value, effect) in enumerate(steps):
            journal = Journal(folder)  # another process each time
            with journal.held():
                pending = journal.begin(f"t{number}", variable, value)
                assert asked(folder) == applied | {variable: value}
                assert not journal.used(f"t{number}")
                journal.applying(pending, f"line/{number}")
                assert begun(Journal(folder)).serial == f"line/{number}"
                (journal.end if effect else journal.undo)(pending)
            if effect:
                applied[variable] = value
                used.add(f"t{number}")
            assert asked(folder) == applied
            assert journal.pending() is None
            assert {f"t{i}" for i in range(len(steps)) if journal.used(f"t{i}")} == used


def test_what_is_pending_survives_its_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / VARIABLES).write_text('{"replicas": 3, "region": "fra"}')
    with journal.held():
        pending = journal.begin("t", "replicas", 5)
    assert Journal(tmp_path).pending() == pending == Pending("t", "replicas", 5, (3,), None)
    assert asked(tmp_path) == {"replicas": 5, "region": "fra"}


def test_a_value_of_null_like_words_is_put_back(tmp_path: Path) -> None:
    (tmp_path / VARIABLES).write_text('{"release": ""}')
    journal = Journal(tmp_path)
    with journal.held():
        journal.begin("t", "release", "v0")
        journal.undo(begun(journal))
    assert asked(tmp_path) == {"release": ""}


def test_the_newest_token_of_each_variable(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held():
        for token, variable in (("a", "replicas"), ("b", "workers"), ("c", "replicas")):
            journal.begin(token, variable, 1)
            journal.end(begun(journal))
    assert (journal.newest("replicas"), journal.newest("workers"), journal.newest("release")) == ("c", "b", "")


def test_only_the_newest_tokens_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held():
        used = {f"t{number}": "replicas" for number in range(KEPT)}
        (tmp_path / FOLDER / "journal.json").write_text(json.dumps({"used": used, "pending": None}))
        journal.end(Pending(f"t{KEPT}", "replicas", 1))
    assert not journal.used("t0")
    assert journal.used("t1")
    assert journal.used(f"t{KEPT}")


def test_a_plan_does_not_outlive_the_lock(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held():
        journal.plan.write_text("secret")
    assert not journal.plan.exists()


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held():
        journal.begin("t", "replicas", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".forecastle", VARIABLES]


def test_the_policy_deletes_nothing_but_its_lock() -> None:
    policy = json.loads((files("forecastle.clouds") / "policies" / "terraform.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            assert ":" in action
            assert not action.endswith(":*")
            if "Delete" in action:
                assert statement["Resource"].endswith(".tflock")
            if not action.partition(":")[2].startswith(("Describe", "List")):
                assert statement["Resource"] != "*"
