"""Whatever is missing, the error says which extra brings it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from forecastle import cli
from forecastle.errors import ConfigError
from forecastle.runtime.extras import EXTRAS, remedy
from forecastle.runtime.inventory import resolve

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_extra_named_exists() -> None:
    assert set(EXTRAS.values()) <= set(PROJECT["optional-dependencies"])


def test_a_module_deep_in_a_package_is_found_by_its_package() -> None:
    assert remedy(ModuleNotFoundError("no", name="torch.nn.functional")) == "pip install 'forecastle[train]'"
    assert remedy(ModuleNotFoundError("no", name="something_else")) is None
    assert remedy(ImportError("no name at all")) is None


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module whose SDK is not there."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "adapter_lacking_its_sdk.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3.session')\n"
    )
    return "adapter_lacking_its_sdk"


def test_an_import_string_whose_module_lacks_its_sdk_says_what_to_install(lacking: str) -> None:
    with pytest.raises(ConfigError, match=r"No module named 'boto3'; run: pip install 'forecastle\[aws\]'"):
        resolve(f"{lacking}:open_cloud")


def test_a_command_that_lacks_an_extra_says_so_in_one_line(
    lacking: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda: __import__(lacking))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "boto3.session is not installed; run: pip install 'forecastle[aws]'\n"
    assert lacking not in sys.modules


def test_any_other_missing_module_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda: __import__("no_such_module_anywhere"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        cli.main()
