"""Price books as CSV, for whoever keeps prices in a spreadsheet: the same fields as in YAML, and the same errors.

::

    book,list
    version,1
    currency,USD
    valid_from,2026-11-01T00:00:00Z

    sku,provider,region,zone,price_h,commitment.count,commitment.price_h
    m6i.large,aws,eu-central-1,,0.115,2,0.07

First the book's own fields, one a row; then a row with the names of the columns, in any order, which begins with ``sku`` or
another field of a row; then the prices. An empty cell leaves its field open, rows without any cell are nothing.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from forecastle.errors import ConfigError
from forecastle.runtime import config

Row: TypeAlias = tuple[int, list[str]]
"""A row with the line it begins on."""


def read(path: Path, head: Sequence[str], columns: Sequence[str]) -> Any:
    """The book in ``path`` as nested mappings that remember their lines, as `config.read` gives them of YAML.

    ``head`` names the fields of a book and ``columns`` those of a row, inner ones with a dot. Raises ConfigError.
    """
    rows = [row for row in _rows(path) if any(row[1])]
    data = CommentedMap()
    for i, (line, cells) in enumerate(rows):
        if cells[0] in columns and cells[0] not in head:
            names = _columns(path, line, cells, columns)
            _put(data, "prices", _prices(path, names, rows[i + 1 :]), line)
            return data
        _field(path, line, cells, data, head)
    known = ", ".join(columns)
    raise ConfigError(f"{path}:{rows[-1][0] if rows else 1}: has no row with names of columns; add one of: {known}")


def _rows(path: Path) -> Iterator[Row]:
    text = config.read_text(path).removeprefix("\ufeff")  # spreadsheets mark UTF-8 with it
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for cells in reader:
            yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}:{line}: is not CSV: {error}; save it as comma-separated UTF-8") from None


def _field(path: Path, line: int, cells: list[str], data: CommentedMap, head: Sequence[str]) -> None:
    """One of the book's own fields."""
    name, *said = cells
    if name not in head:
        if ";" in name or "\t" in name:
            raise ConfigError(f"{path}:{line}: is separated by something else than commas; save it as comma-separated UTF-8")
        raise ConfigError(f"{path}:{line}: {name or 'a row without a name'}: unknown name; {_near(name, head)}")
    if name in data:
        raise ConfigError(f"{path}:{line}: {name} is said already in line {data.lc.data[name][0] + 1}; keep one of them")
    if any(said[1:]):
        raise ConfigError(f"{path}:{line}: {name} has more than one value; keep one, and quote it when it has a comma")
    if any(said):
        _put(data, name, said[0], line)


def _columns(path: Path, line: int, cells: list[str], columns: Sequence[str]) -> list[str]:
    while not cells[-1]:
        cells.pop()
    for i, name in enumerate(cells):
        if name not in columns:
            raise ConfigError(f"{path}:{line}: {name or f'column {i + 1}'}: unknown name; {_near(name, columns)}")
        if name in cells[:i]:
            raise ConfigError(f"{path}:{line}: column {name} is there twice; keep one of them")
    return cells


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known names: {', '.join(known)}"


def _prices(path: Path, names: list[str], rows: Sequence[Row]) -> CommentedSeq:
    found = CommentedSeq()
    for line, cells in rows:
        if any(cells[len(names) :]):
            raise ConfigError(f"{path}:{line}: has more cells than there are columns; quote what has a comma in it")
        row = CommentedMap()
        for name, cell in zip(names, cells, strict=False):
            if cell:
                _cell(row, name, cell, line)
        found.append(row)
        found._yaml_set_idx_line_col(len(found) - 1, [line - 1, 0])
    return found


def _cell(row: CommentedMap, name: str, cell: str, line: int) -> None:
    outer, dot, inner = name.partition(".")
    if not dot:
        _put(row, name, cell, line)
        return
    if outer not in row:
        _put(row, outer, CommentedMap(), line)
    _put(row[outer], inner, cell, line)


def _put(data: CommentedMap, name: str, value: Any, line: int) -> None:
    """Set ``name`` and remember its line, as ruamel's own loader does."""
    data[name] = value
    data._yaml_set_kv_line_col(name, [line - 1, 0, line - 1, 0])
