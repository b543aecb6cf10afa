"""Which announced occasions multiply a series: the decision knows of campaigns and holidays, and the detectors are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forecastle.occasions import occasions
from forecastle.types import Event, SeriesKey, Workload


def announced(workloads: Mapping[str, Workload]) -> Callable[[SeriesKey, int, int], Sequence[Event]]:
    """What answers, for a series and a span of ms, with the occasions of its workload; series that are no demand have none.

    Raises ConfigError when a workload's calendar is not there.
    """
    of = {
        (demand.key.workload, demand.key.metric): load
        for load in workloads.values()
        if load.events or load.holidays
        for demand in load.demands
    }

    def known(key: SeriesKey, begin: int, end: int) -> Sequence[Event]:
        load = of.get((key.workload, key.metric))
        return () if load is None else [one.event for one in occasions(load.events, load.holidays, begin, end)]

    return known
