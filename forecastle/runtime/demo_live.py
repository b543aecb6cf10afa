"""What a person watches during the play: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forecastle.runtime.demo_play import Diary
from forecastle.types import Inventory

FRAME_S = 0.25
LINE_TICKS = 60
TIGHT = 0.95


@contextmanager
def view(stock: Inventory, title: str) -> Iterator[Callable[[Diary], None]]:
    """A callback that shows the diary; the table stays on the screen when the block ends."""
    if not sys.stdout.isatty():
        yield _lines
        return
    console = Console()
    shown = [0.0]
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def watch(diary: Diary) -> None:
            if time.monotonic() - shown[0] >= FRAME_S or diary.ticks == len(diary.at):
                shown[0] = time.monotonic()
                live.update(Group(headline(diary, title), table(diary, stock), news(diary)), refresh=True)

        yield watch


def _lines(diary: Diary) -> None:
    if diary.ticks % LINE_TICKS == 0 or diary.ticks == len(diary.at):
        print(headline(diary, "demo").plain, flush=True)


def headline(diary: Diary, title: str) -> Text:
    """One line: simulated time, speed, unmet share so far, money, open incidents."""
    now, done = int(diary.at[diary.ticks - 1]), diary.until_now()
    capacity = diary.per_replica
    asked = (diary.demand[:, done] / capacity).sum()
    unmet = (diary.unmet[:, done] / capacity).sum() / max(asked, 1e-9)
    step_s = (diary.at[1] - diary.at[0]) / 1000 if len(diary.at) > 1 else 60.0
    speed = diary.ticks * step_s / max(diary.wall_s, 1e-9)
    opened = sum(1 for incident in diary.incidents.values() if incident.last_at == now)
    clock = time.strftime("%a %Y-%m-%d %H:%M", time.gmtime(now / 1000))
    text = Text(f"{title}  {clock} UTC  x{speed:,.0f}  ", style="bold")
    text.append(f"unmet {unmet:.3%}  ", style="green" if unmet < 0.001 else "yellow")
    text.append(f"cost {diary.cost[:, done].sum():,.2f}  incidents open {opened}  actions {len(diary.outcomes)}", style="bold")
    return text


def table(diary: Diary, stock: Inventory) -> Table:
    """A row per workload, in the demand metric's unit."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("workload", no_wrap=True)
    for name in ("demand", "forecast", "insured", "capacity", "ready", "ordered", "wanted"):
        grid.add_column(name, justify="right")
    grid.add_column("mode")
    grid.add_column("last action", no_wrap=True, overflow="ellipsis")
    k = diary.ticks - 1
    for row, name in enumerate(diary.workloads):
        told, demand, capacity = diary.told[name], diary.demand[row, k], diary.capacity[row, k]
        style = "red" if diary.unmet[row, k] > 0 else "yellow" if demand > TIGHT * capacity else ""
        cells = [_number(demand), _number(told.median), _number(told.peak), _number(capacity)]
        counts = [f"{diary.ready[row, k]:.0f}", f"{diary.ordered[row, k]:.0f}", str(told.wanted)]
        grid.add_row(Text(name, style=style), *cells, *counts, str(stock.workloads[name].mode), told.last)
    return grid


def news(diary: Diary, n: int = 4) -> Text:
    """The newest open incidents."""
    now = int(diary.at[diary.ticks - 1])
    fresh = [i for i in diary.incidents.values() if i.last_at == now]
    fresh.sort(key=lambda i: (not i.line.startswith("critical"), -i.opened_at))
    lines = [f"{time.strftime('%H:%M', time.gmtime(i.opened_at / 1000))} {i.line}" for i in fresh[:n]]
    return Text("\n".join([*lines, *[""] * (n - len(lines))]), style="dim", overflow="ellipsis", no_wrap=True)


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,.0f}"
