"""Settings to `Inventory`, and everything ``forecastle check`` can find wrong before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from operator import ge
from typing import Any
from zoneinfo import available_timezones

from forecastle.decide.erlang import reachable
from forecastle.errors import ConfigError
from forecastle.guards.windows import interval
from forecastle.occasions import check_calendar
from forecastle.predict.known import Almanac
from forecastle.runtime.extras import remedy
from forecastle.settings import (
    DemandSettings,
    HolidaySettings,
    PlaybookSettings,
    PolicySettings,
    PoolSettings,
    Settings,
    SloSettings,
    TrafficSettings,
    WorkloadSettings,
)
from forecastle.types import (
    AnomalyKind,
    Demand,
    Event,
    Holidays,
    Inventory,
    Kind,
    Objective,
    Playbook,
    Pool,
    SeriesKey,
    Service,
    Severity,
    Site,
    Usage,
    Workload,
)


def inventory(settings: Settings) -> Inventory:
    """What the configuration says there is. Raises ConfigError with every contradiction found."""
    problems = list(contradictions(settings))
    if problems:
        raise ConfigError("\n".join(problems))
    fleet = settings.fleet
    loads = [with_policy(load, settings) for load in fleet.workloads]
    pools = [Pool(workload=load.name, **pool.model_dump(exclude={"sku"})) for load in loads for pool in load.pools]
    pools += [_traffic(load.name, **share.model_dump()) for load in loads for share in load.traffic]
    return Inventory(
        sites={site.name: Site(**site.model_dump()) for site in fleet.sites},
        pools={pool.name: pool for pool in pools},
        workloads={load.name: _workload(load) for load in loads},
        playbooks=tuple(_playbook(book) for book in settings.playbooks),
        budget_per_hour=fleet.budget_per_hour,
    )


def holdable(settings: Settings, target: str) -> str:
    """``target`` if a hold can be put on it. Raises ConfigError, which names what can be held, for anything else."""
    stock = inventory(settings)
    known = {*stock.workloads, *stock.pools, *stock.sites, *map(stock.domain, stock.pools)}
    if target not in known:
        raise ConfigError(f"'{target}' is nothing that can be held; known are {', '.join(sorted(known)) or 'none'}")
    return target


def key(workload: str, metric: str, labels: dict[str, str]) -> SeriesKey:
    """The series a setting names."""
    return SeriesKey(workload, metric, tuple(sorted(labels.items())))


def with_policy(load: WorkloadSettings, settings: Settings) -> WorkloadSettings:
    """``load`` with what it leaves open filled in by its policy."""
    policy = settings.policies.get(load.policy, PolicySettings())
    common = policy.model_dump(exclude_none=True, exclude=load.model_fields_set)
    return load.model_copy(update=common) if common else load


def _workload(load: WorkloadSettings) -> Workload:
    same = load.model_dump(exclude={"demands", "pools", "traffic", "vetoes", "events", "holidays", "slo"})
    return Workload(
        **same,
        demands=tuple(_demand(load.name, d) for d in load.demands),
        pools=tuple(pool.name for pool in load.pools),
        traffic=tuple(share.name for share in load.traffic),
        vetoes=tuple((key(load.name, v.metric, v.labels), v.above) for v in load.vetoes),
        events=tuple(Event(e.name, *interval(e), e.factor, e.replicas) for e in load.events),
        holidays=_holidays(load.holidays) if load.holidays is not None else None,
        slo=_objective(load.name, load.slo) if load.slo is not None else None,
    )


def almanac(settings: Settings) -> Almanac:
    """What the workloads of the settings know beforehand, for models that ask for it."""
    loads = (_workload(with_policy(load, settings)) for load in settings.fleet.workloads)
    return Almanac(loads, int(settings.window.step_s * 1000))


def _traffic(workload: str, name: str, site: str, adapter: str, target: dict[str, str]) -> Pool:
    """A load balancer's share as a pool that holds nothing and costs nothing."""
    return Pool(name, workload, site, adapter, 0.0, startup_s=0.0, max=0, quota=0, target=target, traffic=True)


def _demand(workload: str, demand: DemandSettings) -> Demand:
    usage, service = demand.usage, demand.service
    learned = queued = None
    if usage is not None:
        used, ready = (key(workload, metric, usage.labels) for metric in (usage.metric, usage.replicas))
        learned = Usage(used, ready, usage.full, usage.raise_limit)
    if service is not None:
        queued = Service(service.service_time_s, service.latency_target_s, service.percentile, service.wait, service.slots)
    return Demand(key(workload, demand.metric, demand.labels), demand.per_replica, learned, queued)


def _holidays(days: HolidaySettings) -> Holidays:
    country, _, subdivision = days.calendar.partition("-")
    return Holidays(country, days.zone, subdivision, days.factor, days.replicas)


def _objective(workload: str, slo: SloSettings) -> Objective:
    budget = key(workload, slo.budget_metric, slo.budget_labels) if slo.budget_metric else None
    return Objective(slo.name, slo.target, slo.budgeting == "Timeslices", budget)


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
    names = (place.name for load in fleet.workloads for place in _places(load))
    yield from _twice("fleet.sites", (site.name for site in fleet.sites))
    yield from _twice("fleet.workloads", (load.name for load in fleet.workloads))
    yield from _twice("pools", names)
    yield from _twice("playbooks", (book.name for book in settings.playbooks))
    for book in settings.playbooks:
        unknown = sorted(set(book.kinds) - {kind.value for kind in AnomalyKind})
        if unknown:
            known = ", ".join(kind.value for kind in AnomalyKind)
            yield f"playbook {book.name}: unknown anomaly kinds {', '.join(unknown)}; known: {known}"
    yield from _window_contradictions(settings)
    yield from _maintenance_contradictions(settings)
    for load in fleet.workloads:
        yield from _pool_contradictions(load, sites, settings)
        if load.policy != "default" and load.policy not in settings.policies:
            known = ", ".join(sorted(settings.policies)) or "none"
            yield f"workload {load.name}: policy '{load.policy}' is unknown, known are {known}; add policies.{load.policy}"
        yield from _workload_contradictions(with_policy(load, settings), sites, settings)
        yield from _occasion_contradictions(load)
        yield from _service_contradictions(load)


def _places(load: WorkloadSettings) -> list[PoolSettings | TrafficSettings]:
    return [*load.pools, *load.traffic]


def _pool_contradictions(load: WorkloadSettings, sites: dict[str, Any], settings: Settings) -> Iterator[str]:
    for place in _places(load):
        if place.site not in sites:
            yield f"pool {place.name}: site '{place.site}' is not in fleet.sites; add it there or correct the name"
        if place.adapter not in settings.clouds:
            yield f"pool {place.name}: adapter '{place.adapter}' is not in clouds; add clouds.{place.adapter}.adapter"
    for share in load.traffic:
        if loose := sorted(key for key, value in share.target.items() if not value.strip() or set(value) & set("*?")):
            yield f"traffic {share.name}: target.{loose[0]} is empty or a pattern, which no action may have; write names"
    for pool in load.pools:
        if pool.unit_price is None:
            yield f"pool {pool.name}: sku '{pool.sku}' was never looked up; load the configuration from its files"
        if not pool.min <= pool.max <= pool.quota:
            yield f"pool {pool.name}: needs min <= max <= quota, has {pool.min}, {pool.max}, {pool.quota}"


def _window_contradictions(settings: Settings) -> Iterator[str]:
    for window in settings.guards.windows:
        if window.zone not in available_timezones():
            yield f"guards.windows {window.name}: zone '{window.zone}' is no IANA time zone; write one such as Europe/Berlin"
        for name in sorted(window.workloads - {load.name for load in settings.fleet.workloads}):
            yield f"guards.windows {window.name}: workload '{name}' is not in fleet.workloads"


def _maintenance_contradictions(settings: Settings) -> Iterator[str]:
    """Zones nobody knows, work that is over before it begins. Workloads and sites are any that series name."""
    for work in settings.detect.maintenance:
        name, when = f"detect.maintenance {work.name}", work.once or work.weekly
        if when is not None and when.zone not in available_timezones():
            yield f"{name}: zone '{when.zone}' is no IANA time zone; write one such as Europe/Berlin"
        elif work.once is not None and ge(*interval(work.once)):
            yield f"{name}: ends at {work.once.end:%Y-%m-%dT%H:%M}, not after its start; exchange them"


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


def _occasion_contradictions(load: WorkloadSettings) -> Iterator[str]:
    """Zones nobody knows, occasions that end before they begin, calendars that are not there."""
    zones = available_timezones()
    for event in load.events:
        name = f"workload {load.name}: event {event.name}"
        if event.zone not in zones:
            yield f"{name}: zone '{event.zone}' is no IANA time zone; write one such as Europe/Berlin"
            continue
        start, end = interval(event)
        if end <= start:
            yield f"{name}: ends at {event.end:%Y-%m-%dT%H:%M}, not after its start; exchange them"
        if event.replicas > load.max:
            yield f"{name}: {event.replicas} replicas are above max {load.max}; raise max"
    if load.holidays is None:
        return
    if load.holidays.zone not in zones:
        zone = load.holidays.zone
        yield f"workload {load.name}: holidays: zone '{zone}' is no IANA time zone; write one such as Europe/Berlin"
        return
    try:
        check_calendar(_holidays(load.holidays))
    except ConfigError as error:
        yield f"workload {load.name}: {error}"


def _service_contradictions(load: WorkloadSettings) -> Iterator[str]:
    for demand in (_demand(load.name, d) for d in load.demands):
        if demand.service is not None and not reachable(demand.service):
            yield (
                f"workload {load.name}: {demand.key.metric}: no number of replicas meets latency_target_s "
                f"{demand.service.latency_s:g} with a service_time_s of {demand.service.service_s:g}; raise the target"
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
        command = remedy(error)
        fix = f"run: {command}" if command else "install the package it needs, or correct the name"
        raise ConfigError(f"import string '{path}': {error}; {fix}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        public = ", ".join(n for n in dir(module) if not n.startswith("_"))[:300]
        raise ConfigError(f"import string '{path}': '{module_name}' has no '{name}'; it has: {public}") from None


def maintenance(settings: Settings) -> Iterator[str]:
    """A line for each declared work: when it is, and whose series it hides."""
    for work in settings.detect.maintenance:
        when = ""
        if work.once is not None:
            when = f"{work.once.start:%Y-%m-%dT%H:%M} to {work.once.end:%Y-%m-%dT%H:%M} {work.once.zone}"
        elif work.weekly is not None:
            when = f"{', '.join(work.weekly.days)} {work.weekly.start} to {work.weekly.end} {work.weekly.zone}"
        whose = ", ".join(sorted(work.workloads)) or "all workloads"
        where = f" at {', '.join(sorted(work.sites))}" if work.sites else ""
        yield f"maintenance {work.name}: {when}, {whose}{where}"


def _blind_spots(settings: Settings) -> Iterator[str]:
    """Windows too short for what the detectors are told to do, which they would silently leave."""
    from forecastle.detect.drifts import compared

    detect, kept = settings.detect, settings.window.look_back
    if detect.warmup > kept:
        yield (
            f"detect.warmup: {detect.warmup} slots are more than window.look_back {kept}, so no series would ever be judged; "
            f"write detect.warmup: {kept} or less"
        )
    needed = detect.season + compared(min(detect.look_back, kept))
    if detect.season and needed > kept:
        yield (
            f"detect.season: {detect.season} slots and what is compared need window.look_back {needed}, it is {kept}; "
            f"write window.look_back: {needed}, or detect.season: 0 to do without the cycle"
        )


def check(settings: Settings) -> list[str]:
    """Every problem of a configuration, without starting anything: references, limits, import strings, capabilities."""
    problems = [*contradictions(settings), *_blind_spots(settings)]
    scaled = {pool.adapter for load in settings.fleet.workloads for pool in load.pools}
    sent = {share.adapter for load in settings.fleet.workloads for share in load.traffic}
    needed = {Kind.SCALE} | {Kind(book.action) for book in settings.playbooks if book.action != "notify"}
    for name, cloud in settings.clouds.items():
        try:
            opened = resolve(cloud.adapter)
        except ConfigError as error:
            problems.append(f"clouds.{name}: {error}")
            continue
        capabilities = getattr(opened, "capabilities", None)
        if capabilities is None:
            continue
        missing = sorted(kind.value for kind in needed - capabilities)
        if missing and (name in scaled or name not in sent):
            problems.append(f"clouds.{name}: lacks {', '.join(missing)}, which the playbooks ask for")
        if name in sent and not capabilities & {Kind.DRAIN, Kind.SHIFT}:
            problems.append(f"clouds.{name}: can neither drain nor shift, which `traffic` asks for")
    problems += [
        f"intake.codecs: topic '{topic}' has no codec; add intake.codecs.{topic}: json"
        for topic in settings.intake.topics
        if topic not in settings.intake.codecs
    ]
    from forecastle.runtime.prices import problems as in_books

    return problems + list(in_books(settings))
