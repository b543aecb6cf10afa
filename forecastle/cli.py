"""The command line: every command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forecastle.errors import ConfigError, ForecastleError

if TYPE_CHECKING:
    from forecastle.ledger.store import SqlLedger
    from forecastle.settings import Settings

app = typer.Typer(
    name="forecastle",
    help="Forecast demand, place capacity before it is needed, notice trouble, heal it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="The model registry: list, promote, roll back.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")
slo = typer.Typer(help="Service level objectives.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(slo, name="slo")
prices = typer.Typer(help="Price books: a new version from what a provider says.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(prices, name="prices")
imports = typer.Typer(
    help="History out of other systems, as the long parquet that models learn from.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(imports, name="import")

Config = Annotated[list[Path], typer.Option("--config", "-c", help="YAML file or folder; later ones win")]
Flags = Annotated[list[str], typer.Option("--set", "-s", help="one setting, as section.field=value")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Who = Annotated[str, typer.Option("--by", help="who says so; kept in the ledger")]
Why = Annotated[str, typer.Option("--reason", help="why; kept in the ledger")]
MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
Since = Annotated[datetime, typer.Option("--from", formats=MOMENTS, help="first moment; UTC unless it says otherwise")]
Until = Annotated[datetime | None, typer.Option("--to", formats=MOMENTS, help="last moment; default: now")]
History = Annotated[Path, typer.Option("--out", help="parquet to write: timestamp, value, workload, metric, labels, series_id")]
DEFAULT_CONFIG: list[Path] = []
DEFAULT_FLAGS: list[str] = []


def settings_from(config: list[Path], flags: list[str], *, look_up: bool = True) -> Settings:
    """Settings of this invocation: ``--config`` (see `paths_of`), environment, ``--set``.

    With ``look_up`` in the price books, which commands about these books do without.
    """
    from forecastle.runtime.config import load

    return load(paths_of(config), flags=flags, look_up=look_up)


def paths_of(config: list[Path]) -> list[Path]:
    """``--config``, or ./configs when it exists."""
    return config or ([Path("configs")] if Path("configs/base.yaml").exists() else [])


def ledger_from(settings: Settings) -> SqlLedger:
    """The ledger that the settings name."""
    from forecastle.ledger.store import SqlLedger
    from forecastle.runtime.clocks import WallClock

    return SqlLedger(settings.ledger, WallClock())


def owned(by: str, reason: str, *, off: bool) -> None:
    """Refuse what nobody answers for: everything has a name to it, and all but ``off`` a reason."""
    if not by or not (off or reason):
        raise typer.BadParameter("give a reason and --by NAME")


def show(value: Any) -> None:
    """Print JSON to standard output."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode())


@app.command()
def demo(
    trace: Annotated[
        Path | None, typer.Option(help="play this real trace (long parquet) instead of the generated fleet")
    ] = None,
    naive: Annotated[
        bool, typer.Option("--naive", help="seasonal-naive forecasts in one process: no Kafka, no training")
    ] = False,
    days: Annotated[float, typer.Option(min=0.05, help="days to play")] = 1.0,
    seed: Annotated[int, typer.Option(help="seed of the generated fleet")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the report and the run's state")] = Path("out/demo"),
) -> None:
    """Play a fleet through Kafka, train, forecast, scale and heal it; write report.html."""
    from forecastle.runtime.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(trace=trace, naive=naive, days=days, seed=seed, out=out)))


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
    shift_s: Annotated[float | None, typer.Option("--shift-s", help="end after this many seconds; default: never")] = None,
    record: Annotated[Path | None, typer.Option(help="append every decided situation here, for 'replay'")] = None,
) -> None:
    """Run one worker: consume, forecast, detect, decide, act."""
    from forecastle.runtime.wiring import run_worker

    run_worker(settings_from(config, flag), shift_s=shift_s or float("inf"), record=record)


@app.command()
def agent(
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
    shift_s: Annotated[float | None, typer.Option("--shift-s", help="end after this many seconds; default: never")] = None,
) -> None:
    """Serve one site that is not always reachable: take signed orders, carry them out, report."""
    from forecastle.runtime.edge import run_agent

    run_agent(settings_from(config, flag), shift_s=shift_s or float("inf"))


@app.command()
def check(
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
    health: Annotated[bool, typer.Option("--health", help="check the running worker's heartbeat instead")] = False,
    max_age_s: Annotated[float, typer.Option("--max-age-s", help="oldest acceptable heartbeat")] = 60.0,
) -> None:
    """Check the configuration, or a worker's health, without starting anything."""
    from forecastle.runtime import health as heartbeat
    from forecastle.runtime import inventory

    settings = settings_from(config, flag)
    if health:
        from forecastle.runtime import edge

        path = edge.heartbeat(settings) if settings.agent.site else Path(settings.runtime.health)
        problems = [p for p in [heartbeat.problem(path, max_age_s)] if p]
    else:
        problems = inventory.check(settings)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    fleet = settings.fleet
    typer.echo(f"ok: {len(fleet.workloads)} workloads, {len(fleet.sites)} sites, {len(settings.clouds)} clouds")
    for line in inventory.maintenance(settings):
        typer.echo(line)


@app.command()
def train(
    history: Annotated[Path | None, typer.Option(help="long parquet of history; default: read it from Kafka")] = None,
    incidents: Annotated[str, typer.Option(help="JSON or parquet of times not to learn from, or 'ledger'")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Train forecaster and detector, export to ONNX, register; the flow of flows/train.py."""
    from forecastle.runtime.workshop import run_flow

    told, settings = str(history) if history else None, settings_from(config, flag)
    configs = [str(path) for path in paths_of(config)]
    rows = run_flow("flows.train:train", settings, configs=configs, history=told, incidents=incidents)
    show(rows)
    for name, row in rows.items():
        for reason in row["reasons"]:
            typer.echo(f"{name} {row['version']} does not serve: {reason}", err=True)


@app.command()
def pretrain(
    *,
    history: Annotated[
        list[Path], typer.Option(help="long parquet of recorded series to learn from too; may be repeated")
    ] = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="folder for weights.npz, model.onnx and manifest.json")] = Path("out/pretrained"),
    series: Annotated[int, typer.Option(min=2, help="generated series")] = 512,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps; default: those of the model's file")] = None,
    budget_s: Annotated[float | None, typer.Option("--budget-s", help="end after this many seconds; default: never")] = None,
    seed: Annotated[int, typer.Option(help="of the generated series and the weights")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Train a first forecaster on generated series, for a fleet without history; the flow of flows/pretrain.py."""
    from forecastle.runtime.workshop import run_flow

    told = [str(path) for path in history]
    size = {"series": series, "steps": steps, "budget_s": budget_s, "seed": seed, "device": device}
    show(run_flow("flows.pretrain:pretrain", settings_from(config, flag), history=told, out=str(out), **size))


@app.command()
def backtest(
    *,
    history: Annotated[Path, typer.Option(help="long parquet of history")],
    out: Annotated[Path, typer.Option(help="folder for the report")] = Path("out/backtest"),
    kind: Annotated[str, typer.Option(help="forecaster or detector")] = "forecaster",
    labels: Annotated[str, typer.Option(help="of a detector: file of incidents, or 'ledger' for people's words")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Roll the champion and its peers over history; errors by series and cohort, a detector's finds by kind of event.

    The flow of flows/backtest.py.
    """
    from forecastle.runtime.workshop import run_flow

    told = {"history": str(history), "out": str(out), "kind": kind, "labels": labels}
    metrics = run_flow("flows.backtest:backtest", settings_from(config, flag), **told)
    show({name: told for name, told in metrics.items() if name != "per_series"})


@slo.command("import")
def slo_import(
    file: Annotated[Path, typer.Argument(help="OpenSLO v1 YAML")],
    budget_metric: Annotated[str, typer.Option(help="metric of the share of the error budget left")] = "",
) -> None:
    """Print the objectives of an OpenSLO file as 'slo' settings of their workloads."""
    from forecastle.decide.slo import as_settings, read

    typer.echo(as_settings(read(file), budget_metric), nl=False)


@models.command("list")
def models_list(config: Config = DEFAULT_CONFIG, flag: Flags = DEFAULT_FLAGS) -> None:
    """List registered versions, newest first."""
    from forecastle.errors import NotFound
    from forecastle.runtime.workshop import registry

    settings = settings_from(config, flag)
    store = registry(settings)
    for name in filter(None, (settings.predict.model, settings.detect.model)):
        try:
            found = store.versions(name)
        except NotFound:
            typer.echo(f"{name}: no version yet; 'forecastle train' registers one")
            continue
        for version in found:
            aliases = ", ".join(version["aliases"])
            typer.echo(f"{name} {version['version']}" + (f" ({aliases})" if aliases else "") + f"  {version['metrics']}")


@models.command("promote")
def models_promote(
    name: str,
    version: str,
    *,
    history: Annotated[Path | None, typer.Option(help="long parquet to compare both on; default: read it from Kafka")] = None,
    force: Annotated[bool, typer.Option("--force", help="whatever the comparison says")] = False,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Point the serving alias at VERSION of NAME if it may take the champion's place; the flow of flows/promote.py."""
    from forecastle.runtime.workshop import run_flow

    told = str(history) if history else ""
    settings = settings_from(config, flag)
    found = run_flow("flows.promote:promote", settings, name=name, version=version, history=told, force=force)
    for note in found["notes"]:
        typer.echo(f"note: {note}", err=True)
    for reason in found["reasons"]:
        typer.echo(f"against it: {reason}", err=True)
    if not found["promoted"]:
        raise typer.Exit(1)
    typer.echo(f"{name}@{settings.predict.alias}: {found['champion'] or 'none'} -> {version}")


@models.command("rollback")
def models_rollback(name: str, config: Config = DEFAULT_CONFIG, flag: Flags = DEFAULT_FLAGS) -> None:
    """Point the serving alias at the version it pointed at before."""
    from forecastle.runtime.workshop import rollback

    settings = settings_from(config, flag)
    before, after = rollback(settings, name)
    typer.echo(f"{name}@{settings.predict.alias}: {before} -> {after}")


@app.command()
def plan(
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
    limit: Annotated[int, typer.Option(help="newest plans to show")] = 10,
    as_json: Json = False,
) -> None:
    """Show the newest plans: what is recommended, what was done."""
    from forecastle.runtime.records import plan_rows

    rows = plan_rows(ledger_from(settings_from(config, flag)), limit)
    if as_json:
        show(rows)
    for row in [] if as_json else rows:
        typer.echo("  ".join(str(cell) for cell in row.values()))


@app.command()
def explain(plan_id: str, config: Config = DEFAULT_CONFIG, flag: Flags = DEFAULT_FLAGS) -> None:
    """Say why PLAN was made: forecast, quantile, binding constraint, cost, refusals."""
    from forecastle.runtime.records import explain_plan

    typer.echo(explain_plan(ledger_from(settings_from(config, flag)), plan_id))


@app.command()
def replay(
    file: Path,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Decide recorded situations again and compare with the plans made then. Exit 1 when any differs."""
    from forecastle.runtime.records import replay_file

    same, different = replay_file(file, settings_from(config, flag))
    for line in different:
        typer.echo(line, err=True)
    typer.echo(f"{same} ticks decided the same, {len(different)} differently")
    raise typer.Exit(1 if different else 0)


@app.command()
def publish(
    file: Path,
    speed: Annotated[float, typer.Option(help="times real time; 0: as fast as possible")] = 0.0,
    topic: Annotated[str, typer.Option(help="topic to write to; default: the first of intake.topics")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Publish a parquet or CSV of samples into Kafka."""
    from forecastle.intake.publish import publish_file

    settings = settings_from(config, flag)
    count = publish_file(file, settings.intake, topic=topic or settings.intake.topics[0], speed=speed)
    typer.echo(f"{count} samples published")


@app.command()
def receive(
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
    until_s: Annotated[float | None, typer.Option("--for-s", help="end after this many seconds; default: never")] = None,
) -> None:
    """Receive Prometheus remote write and publish it into Kafka; settings: intake.receive."""
    from forecastle.runtime.receive import receive as serve

    serve(settings_from(config, flag), until_s, lambda url: typer.echo(f"receiving at {url}"))


@imports.command("prometheus")
def import_prometheus(
    *,
    url: Annotated[str, typer.Option(help="address before /api/v1, such as http://127.0.0.1:9090")],
    query: Annotated[str, typer.Option(help="PromQL, such as sum by (job) (rate(x_total[1m]))")],
    since: Since,
    out: History,
    until: Until = None,
    step: Annotated[str, typer.Option(help="time between points, such as 60s; best window.step_s")] = "60s",
    name: Annotated[str, typer.Option(help="metric name of a result without one")] = "",
    workload: Annotated[str, typer.Option(help="workload of all series; default: by intake.workload_labels")] = "",
    token_env: Annotated[str, typer.Option("--token-env", help="variable that holds a bearer token")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Write the answer of a range query, however long the range."""
    from forecastle.intake.prometheus_history import Request
    from forecastle.runtime.imports import epoch_ms, from_prometheus

    step_ms = round(seconds(step) * 1000)
    request = Request(url, query, epoch_ms(since), epoch_ms(until), step_ms, name, workload)
    settings = settings_from(config, flag)
    typer.echo(
        from_prometheus(settings, request, out, token_env, lambda page, of: typer.echo(f"page {page} of {of}", err=True))
    )


@imports.command("cloudwatch")
def import_cloudwatch(
    *,
    metric: Annotated[str, typer.Option(help="NAMESPACE:METRIC, such as AWS/ApplicationELB:RequestCount")],
    workload: Annotated[str, typer.Option(help="workload that the metric is of")],
    region: Annotated[str, typer.Option(help="AWS region")],
    since: Since,
    out: History,
    until: Until = None,
    step: Annotated[str, typer.Option(help="period: 1s, 5s, 10s, 30s or minutes")] = "60s",
    stat: Annotated[str, typer.Option(help="Average, Sum, Maximum, Minimum, SampleCount or a percentile like p99")] = "Average",
    dimension: Annotated[list[str], typer.Option(help="NAME=VALUE; all that the metric has; may be repeated")] = DEFAULT_FLAGS,
    name: Annotated[str, typer.Option(help="metric name to give; default: CloudWatch's")] = "",
    endpoint_url: Annotated[str, typer.Option("--endpoint-url", help="another endpoint, such as a local emulator")] = "",
) -> None:
    """Write a metric of CloudWatch; needs the permission cloudwatch:GetMetricData."""
    from forecastle.runtime.imports import epoch_ms, from_cloudwatch

    typer.echo(
        from_cloudwatch(
            region=region,
            endpoint_url=endpoint_url,
            metric=metric,
            dimensions=dimension,
            out=out,
            start=epoch_ms(since),
            end=epoch_ms(until),
            workload=workload,
            period_s=round(seconds(step)),
            stat=stat,
            name=name,
        )
    )


@app.command()
def forecast(
    input: Annotated[Path, typer.Option(help="long parquet: series_id, timestamp, value")],  # noqa: A002
    train_until: Annotated[datetime, typer.Option("--train-until", help="last timestamp to learn from (UTC)")],
    horizon: Annotated[int, typer.Option(min=1, help="steps ahead")],
    out: Annotated[Path, typer.Option(help="parquet to write: series_id, origin, step, q0.1 ... q0.9, model")],
    origins: Annotated[int, typer.Option(min=1, help="forecast origins, evenly spaced after train-until")] = 24,
) -> None:
    """Forecast a file: train up to a time, then forecast from rolling origins."""
    from forecastle.runtime.batch_forecast import forecast_file

    typer.echo(forecast_file(input, train_until, horizon, origins, out))


@app.command()
def detect(
    *,
    input: Annotated[Path, typer.Option(help="CSV or parquet: timestamp and numeric columns")],  # noqa: A002
    train_rows: Annotated[int, typer.Option("--train-rows", min=1, help="leading rows to learn from")],
    out: Annotated[Path, typer.Option(help="parquet to write: score, threshold, anomaly, kind, evidence")],
    budget: Annotated[float, typer.Option(help="false alarms allowed per day, 0.001 to 1000")] = 0.1,
    choices: Annotated[Path | None, typer.Option(help="JSON that names the scorer of each family of files")] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="try every scorer on the training rows, by their label where there is one")
    ] = False,
) -> None:
    """Score a file for anomalies, causally."""
    from forecastle.runtime.batch_detect import detect_file

    typer.echo(detect_file(input, train_rows, out, budget, choices=choices, choose=choose))


@app.command()
def rehearse(
    trace: Annotated[Path, typer.Option(help="long parquet: series_id, timestamp, value")],
    *,
    out: Annotated[Path, typer.Option(help="folder for timeline.parquet, summary.json, report.html")],
    series: Annotated[str, typer.Option(help="series to play; default: the only one")] = "",
    policies: Annotated[str, typer.Option(help="comma-separated; default: hpa,forecastle,oracle")] = "",
    capacity_per_replica: Annotated[str, typer.Option("--capacity-per-replica", help="demand units, or auto")] = "auto",
    lead_time: Annotated[str, typer.Option("--lead-time", help="start-up lag; default: 180s")] = "",
    train_fraction: Annotated[float, typer.Option("--train-fraction", min=0.1, max=0.95)] = 0.7,
    config: Annotated[list[Path], typer.Option(help="what-if: files or folders of the one now")] = DEFAULT_CONFIG,
    against: Annotated[list[Path], typer.Option(help="what-if: files or folders of the other one")] = DEFAULT_CONFIG,
    workload: Annotated[str, typer.Option(help="what-if: whose settings; default: the only one")] = "",
) -> None:
    """Replay a trace in closed loop under our policy and the peers', or under two configurations of ours."""
    if config or against or workload:
        from forecastle.runtime.rehearse_whatif import whatif

        if policies or lead_time:
            raise ConfigError(
                "a what-if plays two configurations, with the startup_s of their pools; leave out --policies and --lead-time"
            )
        whatif(
            trace,
            config=config,
            against=against,
            series=series,
            workload=workload,
            capacity_per_replica=capacity_per_replica,
            train_fraction=train_fraction,
            out=out,
        )
        return
    from forecastle.runtime.rehearse import rehearse as play

    play(
        trace,
        series=series,
        policies=tuple(name.strip() for name in (policies or "hpa,forecastle,oracle").split(",") if name.strip()),
        capacity_per_replica=capacity_per_replica,
        lead_time_s=seconds(lead_time or "180s"),
        train_fraction=train_fraction,
        out=out,
    )


@prices.command("aws-spot")
def prices_aws_spot(
    region: Annotated[str, typer.Option(help="AWS region, such as eu-central-1")],
    sku: Annotated[list[str] | None, typer.Option(help="instance type; default: those of the newest version")] = None,
    *,
    days: Annotated[float, typer.Option(min=0.04, max=90, help="days of history in the first version")] = 1.0,
    book: Annotated[str, typer.Option(help="name of the book; default: aws-spot-REGION")] = "",
    product: Annotated[str, typer.Option(help="operating system, as AWS calls it")] = "Linux/UNIX",
    profile: Annotated[str, typer.Option(help="profile of the AWS configuration")] = "",
    endpoint_url: Annotated[str, typer.Option("--endpoint-url", help="address of EC2; default: the region's")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Write AWS's spot prices since the newest version as the next version of a price book."""
    from forecastle.runtime.clocks import WallClock
    from forecastle.runtime.prices_aws import refresh_aws_spot

    path = refresh_aws_spot(
        Path(settings_from(config, flag, look_up=False).prices.books),
        region,
        sku or [],
        now=WallClock().now(),
        days=days,
        book=book,
        product=product,
        profile=profile,
        endpoint_url=endpoint_url,
    )
    typer.echo(path or "no price has changed")


@prices.command("opencost")
def prices_opencost(
    url: Annotated[str, typer.Option(help="OpenCost's API, such as http://localhost:9003")],
    provider: Annotated[str, typer.Option(help="provider of the cluster, as in fleet.sites")],
    region: Annotated[str, typer.Option(help="region of the cluster, as in fleet.sites")],
    *,
    zone: Annotated[str, typer.Option(help="zone of the cluster; default: every zone of the region")] = "",
    window: Annotated[str, typer.Option(help="what is averaged over, such as 30m, 12h or 7d")] = "24h",
    sku: Annotated[list[str] | None, typer.Option(help="namespace/controller; default: all of them")] = None,
    currency: Annotated[str, typer.Option(help="currency that OpenCost reckons in")] = "USD",
    book: Annotated[str, typer.Option(help="name of the book")] = "opencost",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Write what a replica-hour costs by OpenCost as the next version of a price book."""
    from forecastle.decide.prices import Point
    from forecastle.runtime.clocks import WallClock
    from forecastle.runtime.prices_opencost import refresh_opencost

    path = refresh_opencost(
        Path(settings_from(config, flag, look_up=False).prices.books),
        url,
        Point(provider, region, zone, ""),
        now=WallClock().now(),
        window=window,
        currency=currency,
        book=book,
        only=sku or [],
    )
    typer.echo(path or "no price has changed")


@app.command()
def costs(
    start: Annotated[datetime, typer.Option("--from", help="first moment (UTC)")],
    end: Annotated[datetime, typer.Option("--to", help="first moment that no longer counts (UTC)")],
    out: Annotated[Path, typer.Option(help="costs.csv or costs.parquet, with FOCUS columns")],
    *,
    currency: Annotated[str, typer.Option(help="of unit prices, without price books; default: USD")] = "",
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Report what the fleet cost, hour by hour, from the ledger and the price books."""
    from forecastle.runtime.costs_report import report_costs

    settings = settings_from(config, flag, look_up=False)
    done, *notes = report_costs(settings, ledger_from(settings), start, end, out=out, currency=currency)
    typer.echo(done)
    for note in notes:
        typer.echo(note, err=True)


@app.command()
def mode(
    workload: str,
    to: Annotated[str, typer.Argument(help="shadow, advise or auto")],
    by: Who,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Promote or demote a workload: shadow recommends, advise asks, auto acts."""
    from forecastle.types import Mode

    settings = settings_from(config, flag)
    known = [entry.name for entry in settings.fleet.workloads]
    if workload not in known:
        raise ConfigError(f"no workload '{workload}' in fleet.workloads; there is {', '.join(known) or 'none'}")
    if to not in list(Mode):
        raise ConfigError(f"no mode '{to}'; choose one of {', '.join(Mode)}")
    ledger_from(settings).promote_mode(workload, Mode(to), by)
    typer.echo(f"{workload}: {to}")


@app.command()
def kill(
    reason: Annotated[str, typer.Argument(help="why; empty with --off")] = "",
    by: Who = "",
    off: Annotated[bool, typer.Option("--off", help="let effects happen again")] = False,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Stop every effect at once, until someone turns it off again."""
    ledger = ledger_from(settings_from(config, flag))
    owned(by, reason, off=off)
    if off:
        ledger.unkill(by)
    else:
        ledger.kill(reason, by)
    typer.echo(f"kill switch: {ledger.killed() or 'off'}")


@app.command()
def hold(
    target: Annotated[str, typer.Argument(help="a workload, a pool, a site, or a failure domain: provider/region/zone")],
    reason: Annotated[str, typer.Argument(help="why; empty with --off")] = "",
    *,
    by: Who = "",
    off: Annotated[bool, typer.Option("--off", help="let go of it")] = False,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Keep every action off TARGET, until someone lets go of it."""
    from forecastle.runtime import inventory

    owned(by, reason, off=off)
    settings = settings_from(config, flag)
    ledger = ledger_from(settings)
    if off:
        ledger.release(target, by)
    else:
        ledger.hold(inventory.holdable(settings, target), reason, by)
    typer.echo(ledger.held(target) or f"{target}: free")


@app.command()
def down(
    site: Annotated[str, typer.Argument(help="name of an entry in fleet.sites")],
    reason: Annotated[str, typer.Argument(help="why; empty with --off")] = "",
    *,
    by: Who = "",
    off: Annotated[bool, typer.Option("--off", help="it is back")] = False,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Report SITE down: its traffic is drained and its load placed elsewhere, until someone says that it is back."""
    owned(by, reason, off=off)
    settings = settings_from(config, flag)
    names = sorted(one.name for one in settings.fleet.sites)
    if site not in names:
        raise typer.BadParameter(f"'{site}' is not in fleet.sites; known: {', '.join(names) or 'none'}")
    ledger = ledger_from(settings)
    if off:
        ledger.report_up(site, by)
    else:
        ledger.report_down(site, reason, by)
    typer.echo(f"{site}: {'up' if off else 'down'}")


@app.command()
def feedback(
    incident: Annotated[str, typer.Argument(help="id of a recorded incident, or a unique beginning of it")] = "",
    verdict: Annotated[str, typer.Argument(help="'real', or 'false' when it was a false alarm")] = "",
    *,
    by: Who = "",
    labels: Annotated[Path | None, typer.Option(help="write what was said so far here, as incidents for 'train'")] = None,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Say whether an INCIDENT was real: the thresholds of its series follow, within bounds, and training may learn of it."""
    from forecastle.runtime.feedback import say, write_labels

    if verdict not in {"real", "false"} and (incident or labels is None):
        raise typer.BadParameter("give INCIDENT and 'real' or 'false' with --by NAME, or --labels FILE alone")
    ledger = ledger_from(settings_from(config, flag))
    if incident:
        said = say(ledger, incident, real=verdict == "real", who=by)
        typer.echo(f"{said['id']}: {verdict}, {len(said['series'])} series, says {by}")
    if labels is not None:
        typer.echo(f"{labels}: {write_labels(ledger, labels)} incidents")


@app.command()
def approve(plan_id: str, by: Who, config: Config = DEFAULT_CONFIG, flag: Flags = DEFAULT_FLAGS) -> None:
    """Approve a plan that waits for a human."""
    ledger_from(settings_from(config, flag)).approve(plan_id, by)
    typer.echo(f"{plan_id}: approved by {by}")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``3m`` or ``1h`` in seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return float(number) * unit
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no duration; write 90s, 3m or 1h") from None


def main() -> None:
    """Entry point: errors we raise on purpose are one clear line, everything else a traceback."""
    try:
        app()
    except ForecastleError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        from forecastle.runtime.extras import remedy

        command = remedy(error)
        if command is None:
            raise
        typer.echo(f"{error.name} is not installed; run: {command}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
