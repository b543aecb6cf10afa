"""Which model is trained with which parameters: the files of configs/models, checked against the settings first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.members import MemberRules
from forecastle.errors import ConfigError
from forecastle.settings import Settings

DAY_MS = 86_400_000
CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One file of configs/models: import strings, and the parameters that training and export share.

    ``variants`` are overrides of the parameters that are tried beside them when ``train.fan_out`` is more than 1.
    ``members`` are the rules by which statistical members take series over from the model, see `flows.members`; None: never.
    """

    name: str
    train: str
    export: str
    parameters: Mapping[str, Any]
    variants: tuple[Mapping[str, Any], ...] = ()
    members: MemberRules | None = None

    def rivals(self, count: int) -> list[Mapping[str, Any]]:
        """Up to ``count`` sets of parameters: its own, and its own with one of the variants each."""
        return [self.parameters, *({**self.parameters, **variant} for variant in self.variants)][:count]


def recipe(configs: Sequence[str], file: str, **parameters: Any) -> Recipe:
    """``models/<file>.yaml`` of the last of ``configs``, in it or beside it, that has one; ``parameters`` override its own.

    Raises ConfigError when there is none, it lacks an import string, or its season was meant for another step.
    """
    given = [path if path.is_dir() else path.parent for path in map(Path, reversed(configs))]
    tried = [folder / "models" / f"{file}.yaml" for folder in (*given, CONFIGS)]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ConfigError(f"no model configuration '{file}'; write {tried[0]}")
    data = YAML(typ="safe", pure=True).load(path)
    missing = sorted({"train", "export"} - set(data if isinstance(data, dict) else ()))
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; write each as package.module:name")
    variants = data.get("variants") or []
    if not isinstance(variants, list) or not all(isinstance(one, dict) for one in variants):
        raise ConfigError(f"{path}: variants is {variants!r}; write a list of mappings that override parameters")
    own = {**data.get("parameters", {}), **parameters}
    if "season" not in parameters and own.get("step_ms") != data.get("parameters", {}).get("step_ms"):
        _check_season(path, own.get("season", 0), own.get("step_ms"))
    members = MemberRules.of(data["members"]) if "members" in data else None
    return Recipe(file, data["train"], data["export"], own, tuple(variants), members)


def _check_season(path: Path, season: Any, step_ms: Any) -> None:
    """Slots that are no day and no week were counted for another step, unless the file tells the step it counts in."""
    if season and step_ms and season * step_ms not in (DAY_MS, 7 * DAY_MS):
        raise ConfigError(
            f"{path}: season {season} is {season * step_ms / DAY_MS:.3g} days long at window.step_s={step_ms / 1000:g}; "
            f"write season: {round(DAY_MS / step_ms)} for a day, or step_ms: {step_ms} beside it if it is meant so"
        )


def check(settings: Settings, recipes: Mapping[str, Recipe]) -> None:
    """Raises ConfigError when what would be trained could not serve: it looks too far back or not far enough ahead."""
    for file, made in recipes.items():
        reach = made.parameters.get("look_back", 0)
        if reach > settings.window.look_back:
            raise ConfigError(
                f"{file}: looks {reach} slots back and windows keep {settings.window.look_back}; "
                f"set window.look_back={reach} or train with a shorter look_back"
            )
        ahead = made.parameters.get("horizon", settings.predict.horizon)
        if file == "forecaster" and ahead < settings.predict.horizon:
            raise ConfigError(
                f"{file}: horizon {ahead} is shorter than predict.horizon={settings.predict.horizon}; make them equal"
            )
