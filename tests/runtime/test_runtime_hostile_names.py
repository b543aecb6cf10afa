"""Names from strangers in everything we write for people: pages show them as text, spreadsheets do not run them."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.outlets.cloudevents import Event
from forecastle.outlets.events import OPENED
from forecastle.outlets.page import Page
from forecastle.outlets.slack import message
from forecastle.runtime.costs_focus import RISKY, cell

TAGS = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
FORMULAS = ("=cmd|' /C calc'!A0", "@SUM(1+1)", "+1", "-2+3", "\t=1", "\r=1", " =1")
HOSTILE = f"=cmd|{TAGS}\"'&"


class Opened(HTMLParser):
    """What a browser would make of a page: its elements, and its text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in {"script", "style"}:
            self.texts.append(data)


def assert_harmless(path: Path, *, shown: bool = True) -> None:
    """No element of the page comes from a name, and the name is there to be read."""
    html = path.read_text(encoding="utf-8")
    page = Opened(html)
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    ran = [attrs for tag, attrs in page.tags if tag == "script" and attrs.get("type") != "application/json"]
    assert len(ran) == 2, "the plots' library and the page's own script"
    assert html.count("alert(1)") == html.count("alert(2)"), "every name is whole"
    assert not shown or any("<script>alert(1)</script>" in text for text in page.texts)


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three days of a series whose name is hostile."""
    n = 3 * 1440
    at = np.datetime64("2026-01-05T00:00", "ms") + np.arange(n) * np.timedelta64(60_000, "ms")
    values = 200 + 120 * np.sin(np.arange(n) / 1440 * 2 * np.pi) + np.random.default_rng(1).normal(0, 5, n)
    path = tmp_path / "trace.parquet"
    parquet.write_table(pa.table({"series_id": [HOSTILE] * n, "timestamp": at, "value": values}), path)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_comparison_of_configurations(tmp_path: Path, trace: Path) -> None:
    def fleet(name: str, price: float) -> str:
        pool = {"name": f"{HOSTILE}-fra", "site": "fra", "unit_price": price}
        load = {"name": HOSTILE, "demands": [{"metric": "rps", "per_replica": 10}], "pools": [pool]}
        told: dict[str, Any] = {
            "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": "sim.db"}}},
            "window": {"look_back": 300},
            "predict": {"season": 240, "horizon": 20},
            "fleet": {"sites": [{"name": "fra", "provider": "aws", "region": "eu-central-1"}], "workloads": [load]},
        }
        path = tmp_path / name
        path.write_text(json.dumps(told))
        return str(path)

    out = tmp_path / "out"
    now, then = fleet("now.yaml", 0.1), fleet("then.yaml", 0.2)
    run("rehearse", "--trace", str(trace), "--config", now, "--against", then, "--out", str(out))
    assert_harmless(out / "report.html")
    assert json.loads((out / "summary.json").read_text())["workload"] == HOSTILE


def test_every_part_of_a_page() -> None:
    page = Page(HOSTILE, HOSTILE)
    page.heading(HOSTILE)
    page.text(HOSTILE)
    page.figures({HOSTILE: HOSTILE})
    page.table([HOSTILE], [[HOSTILE]], HOSTILE)
    page.plot(HOSTILE, np.arange(3.0), {HOSTILE: np.arange(3.0)}, HOSTILE)
    opened = Opened(page.html())
    assert {tag for tag, _ in opened.tags} & {"img", "iframe", "object", "embed", "form", "base", "a"} == set()
    assert sum(HOSTILE in text for text in opened.texts) >= 8


# --- spreadsheets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", [*FORMULAS, HOSTILE, *(" " * 3 + mark for mark in RISKY)])
def test_a_formula_becomes_text(formula: str) -> None:
    shown = cell(formula)
    assert shown == f"'{formula}"
    out = io.StringIO(newline="")
    csv.writer(out).writerow([shown, "next"])
    assert next(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [f"'{formula}", "next"]


@pytest.mark.parametrize("plain", ["shop", "a=b", "1+1", "it's", "<b>", "", "mail@home"])
def test_what_is_no_formula_is_left_alone(plain: str) -> None:
    assert cell(plain) == plain


@given(st.text(max_size=20))
def test_no_text_begins_as_a_formula(text: str) -> None:
    assert not cell(text).lstrip(" ").startswith(RISKY)
    assert cell(text).removeprefix("'") == text.removeprefix("'") or cell(text) == text


@given(st.floats(-1e9, 1e9))
def test_numbers_are_numbers_however_they_begin(value: float) -> None:
    assert float(cell(value)) == pytest.approx(value)


# --- chats ----------------------------------------------------------------------------------------------------------


def test_a_chat_makes_no_link_and_calls_nobody() -> None:
    data = {"site": "<!channel>", "cause": f"<https://evil|click> {HOSTILE}", "severity": "critical", "signals": 2}
    text = json.dumps(message(Event("e", OPENED, 0, f"<@U1>{HOSTILE}", data)), ensure_ascii=False)
    assert "<" not in text
    assert ">" not in text
    assert "&lt;!channel&gt;" in text
