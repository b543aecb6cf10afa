"""A directory under Terraform keeps every promise of the cloud plug."""

from __future__ import annotations

import pytest
from terraform_worlds import Terraform, terraform

from forecastle.testing.check_cloud import Check, checks


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    return terraform(tmp_path_factory.mktemp("terraform"))


@pytest.mark.parametrize("check", checks(), ids=str)
def test_terraform_keeps_its_promises(check: Check, here: Terraform) -> None:
    check(here.connect, here.pool)
