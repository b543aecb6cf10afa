"""Settings to `Inventory`, and everything ``forecastle check`` can find wrong before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from forecastle.errors import ConfigError
from forecastle.settings import PlaybookSettings, Settings, WorkloadSettings
from forecastle.types import (
    AnomalyKind,
    Demand,
    Inventory,
    Kind,
    Playbook,
    Pool,
    SeriesKey,
    Severity,
    Site,
    Workload,
)


def inventory(settings: Settings) -> Inventory:
    """What the configuration says there is. Raises ConfigError with every contradiction found."""
    problems = list(contradictions(settings))
    if problems:
        raise ConfigError("\n".join(problems))
    fleet = settings.fleet
    return Inventory(
        sites={site.name: Site(**site.model_dump()) for site in fleet.sites},
        pools={
            pool.name: Pool(workload=load.name, **pool.model_dump()) for load in fleet.workloads for pool in load.pools
        },
        workloads={load.name: _workload(load) for load in fleet.workloads},
        playbooks=tuple(_playbook(book) for book in settings.playbooks),
        budget_per_hour=fleet.budget_per_hour,
    )


def key(workload: str, metric: str, labels: dict[str, str]) -> SeriesKey:
    """The series a setting names."""
    return SeriesKey(workload, metric, tuple(sorted(labels.items())))


def _workload(load: WorkloadSettings) -> Workload:
    same = load.model_dump(exclude={"demands", "pools", "vetoes"})
    return Workload(
        **same,
        demands=tuple(Demand(key(load.name, d.metric, d.labels), d.per_replica) for d in load.demands),
        pools=tuple(pool.name for pool in load.pools),
        vetoes=tuple((key(load.name, v.metric, v.labels), v.above) for v in load.vetoes),
    )


def _playbook(book: PlaybookSettings) -> Playbook:
    return Playbook(
        book.name,
        book.metric,
        frozenset(AnomalyKind(kind) for kind in book.kinds),
        Severity(book.severity),
        Kind(book.action),
        book.approval,
    )


def contradictions(settings: Settings) -> Iterator[str]:
    """Problems that no single field shows: dangling names, impossible limits, residency that nothing satisfies."""
    fleet = settings.fleet
    sites = {site.name: site for site in fleet.sites}
    pools = [pool for load in fleet.workloads for pool in load.pools]
    yield from _twice("fleet.sites", (site.name for site in fleet.sites))
    yield from _twice("fleet.workloads", (load.name for load in fleet.workloads))
    yield from _twice("pools", (pool.name for pool in pools))
    yield from _twice("playbooks", (book.name for book in settings.playbooks))
    for book in settings.playbooks:
        unknown = sorted(set(book.kinds) - {kind.value for kind in AnomalyKind})
        if unknown:
            known = ", ".join(kind.value for kind in AnomalyKind)
            yield f"playbook {book.name}: unknown anomaly kinds {', '.join(unknown)}; known: {known}"
    for load in fleet.workloads:
        for pool in load.pools:
            if pool.site not in sites:
                yield f"pool {pool.name}: site '{pool.site}' is not in fleet.sites; add it there or correct the name"
            if pool.adapter not in settings.clouds:
                yield f"pool {pool.name}: adapter '{pool.adapter}' is not in clouds; add clouds.{pool.adapter}.adapter"
            if not pool.min <= pool.max <= pool.quota:
                yield f"pool {pool.name}: needs min <= max <= quota, has {pool.min}, {pool.max}, {pool.quota}"
        yield from _workload_contradictions(load, sites, settings)


def _workload_contradictions(load: WorkloadSettings, sites: dict[str, Any], settings: Settings) -> Iterator[str]:
    allowed = [
        pool
        for pool in load.pools
        if pool.site in sites and (not load.residency or sites[pool.site].residency & load.residency)
    ]
    if not allowed:
        yield (
            f"workload {load.name}: no pool's site is inside its residency {sorted(load.residency)}; "
            "add a pool there (residency is never relaxed)"
        )
    if sum(pool.max for pool in allowed) < load.min:
        yield f"workload {load.name}: min is {load.min}, but its allowed pools hold {sum(p.max for p in allowed)} at most"
    if load.min > load.max:
        yield f"workload {load.name}: min {load.min} is above max {load.max}"
    if len({pool.site for pool in allowed}) < load.min_sites:
        yield f"workload {load.name}: min_sites is {load.min_sites}, but only {len({p.site for p in allowed})} allowed sites"
    horizon_s = settings.predict.horizon * settings.window.step_s
    if load.lead_time_s > horizon_s:
        yield (
            f"workload {load.name}: lead_time_s {load.lead_time_s:g} is beyond the forecast horizon of {horizon_s:g} s; "
            "raise predict.horizon"
        )


def _twice(where: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{where}: '{name}' is defined {count} times; names are unique"


def resolve(path: str) -> Any:
    """The object behind ``module:name``. Raises ConfigError that says which half is wrong."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"import string '{path}': write it as package.module:name")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"import string '{path}': {error}; install the package or the extra it needs, or correct the name"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        public = ", ".join(n for n in dir(module) if not n.startswith("_"))[:300]
        raise ConfigError(f"import string '{path}': '{module_name}' has no '{name}'; it has: {public}") from None


def check(settings: Settings) -> list[str]:
    """Every problem of a configuration, without starting anything: references, limits, import strings, capabilities."""
    problems = list(contradictions(settings))
    needed = {Kind.SCALE} | {Kind(book.action) for book in settings.playbooks if book.action != Kind.NOTIFY}
    for name, cloud in settings.clouds.items():
        try:
            opened = resolve(cloud.adapter)
        except ConfigError as error:
            problems.append(f"clouds.{name}: {error}")
            continue
        capabilities = getattr(opened, "capabilities", None)
        missing = sorted(kind.value for kind in needed - capabilities) if capabilities is not None else []
        if missing:
            problems.append(f"clouds.{name}: lacks {', '.join(missing)}, which the playbooks ask for")
    problems += [
        f"intake.codecs: topic '{topic}' has no codec; add intake.codecs.{topic}: json"
        for topic in settings.intake.topics
        if topic not in settings.intake.codecs
    ]
    return problems
