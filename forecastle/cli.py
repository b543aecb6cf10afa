"""The command line: every command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forecastle.errors import ForecastleError

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

Config = Annotated[list[Path], typer.Option("--config", "-c", help="YAML file or folder; later ones win")]
Flags = Annotated[list[str], typer.Option("--set", "-s", help="one setting, as section.field=value")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Who = Annotated[str, typer.Option("--by", help="who says so; kept in the ledger")]
Why = Annotated[str, typer.Option("--reason", help="why; kept in the ledger")]
DEFAULT_CONFIG: list[Path] = []
DEFAULT_FLAGS: list[str] = []


def settings_from(config: list[Path], flags: list[str]) -> Settings:
    """Settings of this invocation: ``--config`` (default: ./configs when it exists), environment, ``--set``."""
    from forecastle.runtime.config import load

    paths = config or ([Path("configs")] if Path("configs/base.yaml").exists() else [])
    return load(paths, flags=flags)


def ledger_from(settings: Settings) -> SqlLedger:
    """The ledger that the settings name."""
    from forecastle.ledger.store import SqlLedger
    from forecastle.runtime.clocks import WallClock

    return SqlLedger(settings.ledger, WallClock())


def show(value: Any) -> None:
    """Print JSON to standard output."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode())


@app.command()
def demo(
    trace: Annotated[Path | None, typer.Option(help="play this real trace (long parquet) instead of the generated fleet")] = None,
    naive: Annotated[bool, typer.Option("--naive", help="seasonal-naive forecasts in one process: no Kafka, no training")] = False,
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
        problems = [p for p in [heartbeat.problem(Path(settings.runtime.health), max_age_s)] if p]
    else:
        problems = inventory.check(settings)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    fleet = settings.fleet
    typer.echo(f"ok: {len(fleet.workloads)} workloads, {len(fleet.sites)} sites, {len(settings.clouds)} clouds")


@app.command()
def train(
    history: Annotated[Path | None, typer.Option(help="long parquet of history; default: read it from Kafka")] = None,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Train forecaster and detector, export to ONNX, register; the flow of flows/train.py."""
    from forecastle.runtime.workshop import run_flow

    show(run_flow("flows.train:train", settings_from(config, flag), history=str(history) if history else None))


@app.command()
def backtest(
    history: Annotated[Path, typer.Option(help="long parquet of history")],
    out: Annotated[Path, typer.Option(help="folder for the report")] = Path("out/backtest"),
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Roll the champion over history and report errors and coverage; the flow of flows/backtest.py."""
    from forecastle.runtime.workshop import run_flow

    show(run_flow("flows.backtest:backtest", settings_from(config, flag), history=str(history), out=str(out)))


@models.command("list")
def models_list(config: Config = DEFAULT_CONFIG, flag: Flags = DEFAULT_FLAGS) -> None:
    """List registered versions, newest first."""
    from forecastle.runtime.workshop import registry

    settings = settings_from(config, flag)
    for name in (settings.predict.model, settings.detect.model):
        for version in registry(settings).versions(name):
            typer.echo(f"{name} {version}")


@models.command("promote")
def models_promote(
    name: str,
    version: str,
    config: Config = DEFAULT_CONFIG,
    flag: Flags = DEFAULT_FLAGS,
) -> None:
    """Point the serving alias at VERSION of NAME."""
    from forecastle.runtime.workshop import registry

    settings = settings_from(config, flag)
    before = registry(settings).promote(name, version, settings.predict.alias)
    typer.echo(f"{name}@{settings.predict.alias}: {before or 'none'} -> {version}")


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
    input: Annotated[Path, typer.Option(help="CSV or parquet: timestamp and numeric columns")],  # noqa: A002
    train_rows: Annotated[int, typer.Option("--train-rows", min=1, help="leading rows to learn from")],
    out: Annotated[Path, typer.Option(help="parquet to write: score, threshold, anomaly, kind, evidence")],
) -> None:
    """Score a file for anomalies, causally."""
    from forecastle.runtime.batch_detect import detect_file

    typer.echo(detect_file(input, train_rows, out))


@app.command()
def rehearse(
    trace: Annotated[Path, typer.Option(help="long parquet: series_id, timestamp, value")],
    out: Annotated[Path, typer.Option(help="folder for timeline.parquet, summary.json, report.html")],
    series: Annotated[str, typer.Option(help="series to play; default: the only one")] = "",
    policies: Annotated[str, typer.Option(help="comma-separated")] = "hpa,forecastle,oracle",
    capacity_per_replica: Annotated[str, typer.Option("--capacity-per-replica", help="demand units, or auto")] = "auto",
    lead_time: Annotated[str, typer.Option("--lead-time", help="start-up lag, such as 180s")] = "180s",
    train_fraction: Annotated[float, typer.Option("--train-fraction", min=0.1, max=0.95)] = 0.7,
) -> None:
    """Replay a trace in closed loop under our policy and the peers'."""
    from forecastle.runtime.rehearse import rehearse as play

    play(
        trace,
        series=series,
        policies=tuple(name.strip() for name in policies.split(",") if name.strip()),
        capacity_per_replica=capacity_per_replica,
        lead_time_s=seconds(lead_time),
        train_fraction=train_fraction,
        out=out,
    )


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

    ledger_from(settings_from(config, flag)).promote_mode(workload, Mode(to), by)
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
    if not by or not (off or reason):
        raise typer.BadParameter("give a reason and --by NAME")
    if off:
        ledger.unkill(by)
    else:
        ledger.kill(reason, by)
    typer.echo(f"kill switch: {ledger.killed() or 'off'}")


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


if __name__ == "__main__":
    main()
