"""What the forecaster's configuration may say, checked before anything is trained for minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from forecastle.errors import ConfigError
from forecastle.predict.known import check_columns

_COUNTS = (
    *("step_ms", "look_back", "horizon", "recent", "patch", "coarse", "coarse_patch", "width", "hidden", "steps", "batch"),
    *("check_every", "patience"),
)
_POSITIVE = ("half_life", "learning_rate")
_NOT_NEGATIVE = ("season", "smooth", "blocks", "weight_decay", "seed")
QUANTILES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class ForecasterConfig:
    """Shape and training of the forecaster; lengths in slots of ``step_ms``.

    ``season`` 0 does without a season. ``recent`` newest slots are seen one by one in patches of ``patch``, the whole window
    as means of ``coarse`` slots in patches of ``coarse_patch``. ``validation`` is the share of time held out to stop early,
    ``drop`` the share of windows in which slots are hidden. ``mixed`` runs the network in bfloat16 on a GPU. ``init`` is a
    file of weights that training starts from, see `models.weights`; '' starts from random ones.
    ``known`` names the inputs known beforehand that the network takes and ``static`` the conditions on a series' key, see
    `forecastle.predict.known`; ``known_drop`` is the share of windows that are told neither.
    """

    name: str = "forecaster"
    step_ms: int = 60_000
    look_back: int = 1500
    horizon: int = 30
    quantiles: tuple[float, ...] = QUANTILES
    season: int = 1440
    smooth: int = 5
    recent: int = 120
    patch: int = 20
    coarse: int = 30
    coarse_patch: int = 10
    half_life: float = 3.0
    width: int = 48
    blocks: int = 2
    hidden: int = 128
    steps: int = 3000
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    check_every: int = 50
    patience: int = 12
    validation: float = 0.1
    drop: float = 0.3
    seed: int = 0
    mixed: bool = False
    init: str = ""
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    known_drop: float = 0.1

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be built."""
        bad = [name for name in _COUNTS if getattr(self, name) < 1]
        if bad:
            raise ConfigError(f"forecaster: {', '.join(bad)} must be at least 1")
        bad = [name for name in _POSITIVE if not 0 < getattr(self, name) < math.inf]
        if bad:
            raise ConfigError(f"forecaster: {', '.join(bad)} must be more than 0 and finite")
        bad = [name for name in _NOT_NEGATIVE if not 0 <= getattr(self, name) < math.inf]
        if bad:
            raise ConfigError(f"forecaster: {', '.join(bad)} must be at least 0 and finite")
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles or not self._inside():
            raise ConfigError(f"forecaster: quantiles {list(self.quantiles)} must rise within (0, 1) and hold 0.5")
        if self.recent % self.patch or self.recent > self.look_back:
            raise ConfigError(f"forecaster: recent {self.recent} must be a multiple of patch {self.patch}, within look_back")
        if self.look_back % (self.coarse * self.coarse_patch):
            least = self.coarse * self.coarse_patch
            raise ConfigError(f"forecaster: look_back {self.look_back} must be a multiple of coarse * coarse_patch = {least}")
        if self.season and not self.horizon + self.smooth <= self.season < self.look_back - self.smooth:
            raise ConfigError(
                f"forecaster: season {self.season} must be at least horizon + smooth and less than look_back - smooth "
                f"= {self.look_back - self.smooth}; 0 does without"
            )
        self._check_shares()
        check_columns(self.known, self.static)

    def _check_shares(self) -> None:
        if not 0 < self.validation < 0.5:
            raise ConfigError(f"forecaster: validation {self.validation} must be within (0, 0.5)")
        for name in ("drop", "known_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"forecaster: {name} {getattr(self, name)} must be a share within [0, 1]")

    def _inside(self) -> bool:
        return self.quantiles[0] > 0 and self.quantiles[-1] < 1

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> ForecasterConfig:
        """From a mapping that overrides the defaults. Raises ConfigError for unknown keys and wrong types."""
        known = {f.name: f.default for f in fields(cls)}
        unknown = sorted(set(cfg) - set(known))
        if unknown:
            raise ConfigError(f"forecaster: unknown keys {unknown}; known are {sorted(known)}")
        return cls(**{name: _typed(name, value, known[name]) for name, value in cfg.items()})


def _typed(name: str, value: Any, default: Any) -> Any:
    if default == ():
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ConfigError(f"forecaster: {name} is {value!r}; write a list of words")
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and value and all(isinstance(v, int | float) for v in value):
            return tuple(float(v) for v in value)
        raise ConfigError(f"forecaster: {name} is {value!r}; write a list of numbers")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"forecaster: {name} is {value!r}; write {_article(default)} such as {default!r}")
    return value


def _article(default: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[type(default)]


DEFAULTS: dict[str, Any] = asdict(ForecasterConfig())
