"""A report is one file that opens offline, shows what it was given and runs nothing that a label smuggled in."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from forecastle.outlets.page import MAX_POINTS, Page, shown

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\""


class Parsed(HTMLParser):
    """Elements, texts and the JSON of plots, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.plots: list[dict] = []
        self._data = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._data = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_endtag(self, tag):
        self._data = False

    def handle_data(self, data):
        if self._data:
            self.plots.append(json.loads(data))
        else:
            self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def hostile_page() -> Page:
    page = Page(HOSTILE, HOSTILE)
    page.heading(HOSTILE)
    page.text(HOSTILE)
    page.figures({HOSTILE: HOSTILE})
    page.table([HOSTILE, "n"], [[HOSTILE, 1]], caption=HOSTILE)
    page.plot(HOSTILE, [0, 1], {HOSTILE: [1, 2]}, unit=HOSTILE)
    page.curves(HOSTILE, {HOSTILE: ([1, 2], [3, 4])}, HOSTILE, HOSTILE)
    return page


def test_hostile_labels_stay_text():
    parsed = Parsed(hostile_page().html())
    scripts = parsed.named("script")
    assert len(scripts) == 4, "two data islands, uPlot and the page's own script, nothing else"
    assert parsed.named("img") == []
    assert sum(HOSTILE in text for text in parsed.texts) >= 6
    assert list(parsed.plots[0]["names"]) == [HOSTILE]
    assert parsed.plots[1]["xLabel"] == HOSTILE


def test_nothing_is_fetched_and_the_policy_says_so():
    html = hostile_page().html()
    parsed = Parsed(html)
    assert not [attrs for _, attrs in parsed.tags if "src" in attrs or "href" in attrs]
    policy = next(a["content"] for a in parsed.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+' 'sha256-[\w+/=]+'", policy)
    assert "@import" not in html.split("</style>")[0]
    assert "url(" not in html.split("</style>")[0]


def test_the_policy_admits_exactly_the_scripts_that_are_inlined():
    import base64
    import hashlib

    html = hostile_page().html()
    inlined = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inlined}
    assert hashes == set(re.findall(r"sha256-([\w+/=]+)", html))


def test_plots_keep_values_gaps_and_bands():
    page = Page("t")
    page.plot(
        "p",
        [0, 1000, 2000],
        {"a": [1.5, None, np.nan], "b": [1, 2, 3]},
        unit="req",
        stepped=["b"],
        band=([0, 0, 0], "b"),
    )
    (plot,) = Parsed(page.html()).plots
    assert plot["x"] == [0.0, 1.0, 2.0], "milliseconds become the seconds that uPlot wants"
    assert plot["values"] == [[1.5, None, None], [1, 2, 3]]
    assert plot["band"] == [[0, 0, 0], [1, 2, 3]]
    assert plot["stepped"] == [False, True]
    assert plot["unit"] == "req"


def test_numeric_axis_is_left_alone():
    page = Page("t")
    page.plot("p", [0, 1000], {"a": [1, 2]}, time=False)
    assert Parsed(page.html()).plots[0]["x"] == [0, 1000]


def test_long_plots_keep_their_extremes():
    rng = np.random.default_rng(0)
    n = 300_000
    a, b = rng.normal(size=n), rng.normal(size=n)
    a[123_456], b[200_001] = 50.0, -70.0
    a[5] = np.nan
    page = Page("t")
    page.plot("p", np.arange(n) * 1000, {"a": a, "b": b})
    (plot,) = Parsed(page.html()).plots
    assert len(plot["x"]) <= MAX_POINTS + 1
    assert plot["x"] == sorted(set(plot["x"]))
    assert plot["x"][0] == 0
    assert plot["x"][-1] == n - 1
    assert max(v for v in plot["values"][0] if v is not None) == 50.0
    assert min(plot["values"][1]) == -70.0


def test_curves_are_merged_on_one_axis_without_inventing_points():
    page = Page("t")
    page.curves("c", {"hpa": ([2.0, 0.5], [1, 2]), "ours": ([1.0, 0.0], [3, 4])}, log_x=True)
    (plot,) = Parsed(page.html()).plots
    assert plot["x"] == [0.5, 1.0, 2.0]
    assert plot["values"] == [[2, None, 1], [None, 3, None]], "a point at zero has no place on a logarithmic axis"


def test_wrong_shapes_are_refused():
    page = Page("t")
    with pytest.raises(ValueError, match="3 values for 2 points"):
        page.plot("p", [0, 1], {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match="2 cells"):
        page.table(["a", "b"], [[1]])


def test_tables_align_numbers_and_say_none_when_empty():
    page = Page("t")
    page.table(["name", "n"], [["a", 1.23456], ["b", None]])
    page.table(["name"], [])
    parsed = Parsed(page.html())
    assert [attrs.get("class") for attrs in parsed.named("th")] == [None, "n", None]
    assert "1.235" in parsed.texts
    assert "none" in parsed.texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\N{EN DASH}"), (float("nan"), "\N{EN DASH}"), (float("inf"), "inf"), (True, "yes"), (1234567, "1,234,567"),
     (1234.5, "1,234"), (0.000123456, "0.0001235"), (np.int64(7), "7"), (np.float64(0.5), "0.5"), ("x", "x")],
)  # fmt: skip
def test_cells(value, text):
    assert shown(value) == text


def test_save_makes_its_folder(tmp_path: Path):
    hostile_page().save(tmp_path / "a" / "b.html")
    assert (tmp_path / "a" / "b.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_licence_lies_beside_the_vendored_code():
    from importlib.resources import files

    assert "Permission is hereby granted" in (files("forecastle.outlets") / "vendor/uPlot.LICENSE").read_text("utf-8")
