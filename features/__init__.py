"""Pure numpy features with a declared look-back."""

from features.calendar import day_phase, week_day
from features.plan import FEATURES, Feature, feature, plan, plan_hash, rolled
from features.rolling import level, rolling_mean, slope

__all__ = [
    "FEATURES",
    "Feature",
    "day_phase",
    "feature",
    "level",
    "plan",
    "plan_hash",
    "rolled",
    "rolling_mean",
    "slope",
    "week_day",
]
