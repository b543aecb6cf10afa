"""A wrong configuration is refused in words before anything is built; the shipped one builds."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from training_worlds import TINY

from forecastle.errors import ConfigError
from forecastle.runtime.inventory import resolve
from models.patch_mixer import DEFAULTS, build

CONFIGS = Path(__file__).parents[2] / "configs" / "models"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 3}, r"unknown keys \['widht'\]; known are"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"horizon": "ten"}, "horizon is 'ten'; write a whole number such as 30"),
        ({"horizon": True}, "horizon is True"),
        ({"learning_rate": "fast"}, "write a number"),
        ({"name": 3}, "write a word"),
        ({"quantiles": [0.1, 0.9]}, "must rise within"),
        ({"quantiles": [0.5, 0.1]}, "must rise within"),
        ({"quantiles": [0.0, 0.5]}, "must rise within"),
        ({"quantiles": 0.5}, "write a list of numbers"),
        ({"recent": 25}, "multiple of patch 10"),
        ({"recent": 130}, "within look_back"),
        ({"look_back": 100}, r"multiple of coarse \* coarse_patch = 40"),
        ({"season": 119}, "less than look_back - smooth = 118"),
        ({"season": 5}, "at least horizon"),
        ({"validation": 0.7}, "validation 0.7"),
        ({"half_life": 0.0}, "half_life must be more than 0"),
        ({"learning_rate": -1.0}, "learning_rate must be more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0"),
        ({"blocks": -1}, "blocks must be at least 0"),
        ({"smooth": -3}, "smooth must be at least 0"),
        ({"weight_decay": -0.1, "seed": -1}, "weight_decay, seed must be at least 0"),
        ({"drop": 5.0}, r"drop 5.0 must be a share within \[0, 1\]"),
        ({"patience": 0, "check_every": 0}, "check_every, patience must be at least 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**TINY, **change})


def test_a_whole_number_will_do_for_a_number() -> None:
    assert build({**TINY, "half_life": 2}).cfg.half_life == 2.0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_model_builds_and_names_what_it_needs(path: Path) -> None:
    shipped = YAML(typ="safe", pure=True).load(path)
    module = resolve(shipped["build"])(shipped["parameters"])
    assert sum(p.numel() for p in module.parameters()) > 1000
    assert all(callable(resolve(shipped[key])) for key in ("train", "export"))


def test_the_shipped_forecaster_is_the_default_in_full() -> None:
    shipped = YAML(typ="safe", pure=True).load(CONFIGS / "forecaster.yaml")["parameters"]
    assert shipped == {key: DEFAULTS[key] for key in shipped}
