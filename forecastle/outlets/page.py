"""One self-contained HTML file per report: it must open years later, offline, from a mail attachment.

So everything is inlined (uPlot 1.6.32, MIT, lies in ``vendor/`` with its licence), nothing is fetched (a content
security policy forbids it), and every text is escaped, because labels of metrics come from strangers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from forecastle.types import Floats

Values: TypeAlias = Sequence[float | None] | Floats
Band: TypeAlias = tuple[str | Values, str | Values]

MAX_POINTS = 4000
"""Points a plot keeps: twice what a wide screen can show. Longer series keep the extremes of every stretch."""


class Page:
    """A report that is written from top to bottom and saved as one file."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title, self._subtitle = title, subtitle
        self._body: list[str] = []
        self._plots = 0

    def heading(self, text: str) -> None:
        """Start a section."""
        self._body.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Plain paragraphs, separated by empty lines."""
        self._body += [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]

    def figures(self, figures: Mapping[str, object]) -> None:
        """A row of large numbers: label -> value."""
        tiles = "".join(
            f'<div class="tile"><b>{escape(shown(value))}</b><span>{escape(label)}</span></div>'
            for label, value in figures.items()
        )
        self._body.append(f'<div class="tiles">{tiles}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """A table; numbers stand to the right, None is a dash. Raises ValueError when a row has another width."""
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"every row needs {len(columns)} cells: {', '.join(columns)}")
        numeric = [bool(rows) and all(_number(row[c]) or row[c] is None for row in rows) for c in range(len(columns))]
        kind = [' class="n"' if is_number else "" for is_number in numeric]
        head = "".join(f"<th{kind[c]}>{escape(name)}</th>" for c, name in enumerate(columns))
        body = (
            "".join(
                "<tr>" + "".join(f"<td{kind[c]}>{escape(shown(cell))}</td>" for c, cell in enumerate(row)) + "</tr>"
                for row in rows
            )
            or f'<tr><td colspan="{len(columns)}" class="none">none</td></tr>'
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._body.append(f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def plot(
        self,
        title: str,
        x: Sequence[float] | Floats,
        series: Mapping[str, Values],
        unit: str = "",
        *,
        time: bool = True,
        stepped: Sequence[str] = (),
        band: Band | None = None,
    ) -> None:
        """Lines over a shared ascending ``x`` (ms since the epoch, shown in UTC, when ``time``).

        None and NaN leave a gap. ``stepped`` names the series drawn as stairs; ``band`` is (low, high), each a series
        or the name of one. Raises ValueError when a series is not as long as ``x``.
        """
        at = np.asarray(x, np.float64) / (1000.0 if time else 1.0)
        columns = {name: _column(values) for name, values in series.items()}
        edges = [columns[edge] if isinstance(edge, str) else _column(edge) for edge in band or ()]
        every = [*columns.values(), *edges]
        for column in every:
            if len(column) != len(at):
                raise ValueError(f"plot '{title}': {len(column)} values for {len(at)} points")
        keep = _extremes(every, len(at))
        self._plot(
            title,
            {
                "x": _plain(at[keep]),
                "names": list(columns),
                "values": [_plain(column[keep]) for column in columns.values()],
                "band": [_plain(edge[keep]) for edge in edges],
                "stepped": [name in stepped for name in columns],
                "unit": unit,
                "time": time,
            },
        )

    def curves(
        self,
        title: str,
        curves: Mapping[str, tuple[Sequence[float] | Floats, Sequence[float] | Floats]],
        x_label: str = "",
        y_label: str = "",
        *,
        log_x: bool = False,
    ) -> None:
        """Curves that each have their own points: name -> (x, y). With ``log_x`` points at x <= 0 are left out."""
        points: dict[str, dict[float, float]] = {}
        for name, (xs, ys) in curves.items():
            pairs = zip(np.asarray(xs, np.float64).tolist(), np.asarray(ys, np.float64).tolist(), strict=True)
            points[name] = {a: b for a, b in pairs if math.isfinite(a) and math.isfinite(b) and not (log_x and a <= 0)}
        at = sorted({a for curve in points.values() for a in curve})
        self._plot(
            title,
            {
                "x": at,
                "names": list(points),
                "values": [[curve.get(a) for a in at] for curve in points.values()],
                "band": [],
                "stepped": [False] * len(points),
                "unit": y_label,
                "xLabel": x_label,
                "log": log_x,
                "time": False,
                "marks": True,
            },
        )

    def html(self) -> str:
        """The whole document."""
        here = files("forecastle.outlets")
        css = (here / "vendor/uPlot.min.css").read_text("utf-8") + (here / "page.css").read_text("utf-8")
        scripts = [(here / "vendor/uPlot.iife.min.js").read_text("utf-8"), (here / "page.js").read_text("utf-8")]
        allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
        policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
        subtitle = f'<p class="subtitle">{escape(self._subtitle)}</p>' if self._subtitle else ""
        return "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">',
                f"<title>{escape(self._title)}</title><style>{css}</style></head><body><main>",
                f"<header><h1>{escape(self._title)}</h1>{subtitle}</header>",
                *self._body,
                "</main>",
                *(f"<script>{script}</script>" for script in scripts),
                "</body></html>\n",
            ]
        )

    def save(self, path: Path | str) -> None:
        """Write the document, creating its folder."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.html(), "utf-8")

    def _plot(self, title: str, data: dict[str, Any]) -> None:
        self._plots += 1
        # '<' never appears inside the JSON, so no text of a label can end the script element that holds it
        payload = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        self._body.append(
            f'<figure><figcaption>{escape(title)}</figcaption><div class="plot" id="plot-{self._plots}"></div>'
            f'<script type="application/json" data-for="plot-{self._plots}">{payload}</script></figure>'
        )


def shown(value: object) -> str:
    """A cell's text: thousands separated, four significant digits, a dash for None and NaN."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        if not math.isfinite(number):
            return "\N{EN DASH}" if math.isnan(number) else str(number)
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
    return str(value)


def _number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _column(values: Values) -> Floats:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _plain(values: Floats) -> list[float | None]:
    return [float(f"{v:.10g}") if math.isfinite(v) else None for v in values.tolist()]


def _extremes(columns: Sequence[Floats], n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows to keep: all, or those where some column has its least or greatest value within one of equal stretches."""
    if n <= MAX_POINTS:
        return np.arange(n)
    stretch = math.ceil(n * (2 * len(columns) + 1) / MAX_POINTS)
    starts = np.arange(0, n, stretch)
    kept = [starts, np.array([n - 1])]
    for column in columns:
        padded = np.full(len(starts) * stretch, np.nan)
        padded[:n] = column
        rows = padded.reshape(len(starts), stretch)
        kept.append(starts + np.argmin(np.where(np.isnan(rows), np.inf, rows), axis=1))
        kept.append(starts + np.argmax(np.where(np.isnan(rows), -np.inf, rows), axis=1))
    return np.unique(np.concatenate(kept))
