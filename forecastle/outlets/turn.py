"""What an outlet reads of a turn of the loop. The rooms don't know the loop, so the shape is said here and checked by mypy."""

from __future__ import annotations

from typing import Protocol

from forecastle.types import Anomaly, Forecasts, Incident, Outcome, Plan, Situation, Windows


class ClosedTick(Protocol):
    """A tick whose measurements are complete: event time ``tick`` (ms) and what was seen in it."""

    @property
    def tick(self) -> int: ...  # noqa: D102 - said by the class

    @property
    def windows(self) -> Windows: ...  # noqa: D102 - said by the class

    @property
    def forecasts(self) -> Forecasts: ...  # noqa: D102 - said by the class

    @property
    def anomalies(self) -> tuple[Anomaly, ...]: ...  # noqa: D102 - said by the class

    @property
    def incidents(self) -> tuple[Incident, ...]: ...  # noqa: D102 - said by the class


class Turn(Protocol):
    """What a tick came to. ``rebuilt``: it was decided before a restart; without a ``situation`` nothing was decided now."""

    @property
    def closed(self) -> ClosedTick: ...  # noqa: D102 - said by the class

    @property
    def situation(self) -> Situation | None: ...  # noqa: D102 - said by the class

    @property
    def plans(self) -> tuple[Plan, ...]: ...  # noqa: D102 - said by the class

    @property
    def outcomes(self) -> tuple[Outcome, ...]: ...  # noqa: D102 - said by the class

    @property
    def rebuilt(self) -> bool: ...  # noqa: D102 - said by the class
