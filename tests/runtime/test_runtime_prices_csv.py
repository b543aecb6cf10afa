"""Price books as CSV: what YAML says can be said in a spreadsheet, and mistakes are told just as well."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_worlds import HEAD, M6I, POOL, at, write_book, write_fleet

from forecastle.decide.prices import Book, Commitment, Point
from forecastle.errors import ConfigError
from forecastle.runtime.config import load
from forecastle.runtime.inventory import inventory
from forecastle.runtime.prices import COLUMNS, read_book, shelf

TEXT = """book,list
version,1
currency,USD
valid_from,2026-01-01T00:00:00Z

sku,provider,region,zone,price_h,spot_price_h,commitment.count,commitment.price_h
m6i.large,aws,eu-central-1,,0.115,,3,0.07
m6i.large,aws,eu-central-1,a,,0.043,,
"""


def written(folder: Path, text: str = TEXT, name: str = "list-1.csv", encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def table(rows: list[Mapping[str, Any]], **head: Any) -> str:
    """The CSV of what `price_worlds.write_book` writes as YAML."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows((HEAD | head).items())
    writer.writerow(COLUMNS)
    for row in rows:
        flat = row | {f"commitment.{name}": value for name, value in row.get("commitment", {}).items()}
        writer.writerow([flat.get(name, "") for name in COLUMNS])
    return out.getvalue()


def bare(book: Book) -> Book:
    """A book without where it is written."""
    return replace(book, source="", lines={}, prices=tuple(replace(row, line=0) for row in book.prices))


def test_a_book_is_read_with_the_lines_it_is_written_on(tmp_path: Path) -> None:
    path = written(tmp_path)
    book = read_book(path)
    assert (book.name, book.version, book.currency, book.since) == ("list", 1, "USD", at("2026-01-01"))
    assert [row.line for row in book.prices] == [7, 8]
    assert (book.prices[0].price, book.prices[0].spot_price, book.prices[0].commitment) == (0.115, None, Commitment(3, 0.07))
    assert book.prices[1].point == Point("aws", "eu-central-1", "a", "m6i.large")
    assert (book.prices[1].price, book.prices[1].spot_price, book.prices[1].commitment) == (None, 0.043, None)
    assert book.where("valid_from") == f"{path}:4"


MONEY = st.floats(0, 1e6, allow_nan=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "sku": st.text("abc,\"' .=ü", min_size=1, max_size=6).filter(lambda text: text.strip() == text),
            "provider": st.just("aws"),
            "region": st.just("r"),
            "price_h": MONEY,
        },
        optional={
            "zone": st.sampled_from("abc"),
            "spot_price_h": MONEY,
            "interruptions_h": MONEY,
            "egress_price": MONEY,
            "valid_from": st.sampled_from(["2026-02-01T00:00:00Z", "2026-02-01T01:00:00+01:00"]),
            "commitment": st.fixed_dictionaries({"count": st.integers(0, 99), "price_h": MONEY}),
        },
    ),
    min_size=1,
    max_size=4,
)


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_csv_says_what_yaml_says(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("books")
    as_yaml = read_book(write_book(folder, *rows))
    as_csv = read_book(written(folder, table(rows)))
    assert bare(as_csv) == bare(as_yaml)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        "\n".join(line + "," * (8 - line.count(",")) for line in TEXT.splitlines()),
        TEXT.replace("USD", '" USD "').replace("0.115", ' "0.115"'.strip()),
        TEXT.replace("\n\n", "\nas_of,\nvalid_until\n,,,\n") + "\n,,,,\n",
    ],
    ids=["windows", "byte-order mark", "padded by a spreadsheet", "quoted", "empty fields and rows"],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    plain, other = read_book(written(tmp_path)), read_book(written(tmp_path, text, "other.csv"))
    assert bare(other) == bare(plain)


def test_a_cell_over_two_lines_moves_the_lines_of_the_rows_after_it(tmp_path: Path) -> None:
    text = TEXT.replace("m6i.large,aws,eu-central-1,,", '"m6i\nlarge",aws,eu-central-1,,').replace("0.043", "-1")
    with pytest.raises(ConfigError, match=r"list-1.csv:9: prices.1.spot_price_h: Input should be greater than"):
        shelf(written(tmp_path, text).parent)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.115", "-0.1", "7: prices.0.price_h: Input should be greater than or equal to 0 (given '-0.1')"),
        ("0.115", "0,115", "7: has more cells than there are columns; quote what has a comma in it"),
        ("0.115", '"0,115"', "7: prices.0.price_h: Input should be a valid number"),
        ("0.115", "1e999", "7: prices.0.price_h: Input should be a finite number"),
        ("0.115", "=0.1+0.015", "7: prices.0.price_h: Input should be a valid number"),
        ("3,0.07", "-3,0.07", "7: prices.0.commitment.count: Input should be greater than or equal to 0"),
        ("3,0.07", "3,", "7: prices.0.commitment.price_h: is missing; add 'price_h: ...'"),
        ("m6i.large,aws,eu-central-1,a", ",aws,eu-central-1,a", "8: prices.1.sku: is missing; add 'sku: ...'"),
        ("USD", "usd", "3: currency: String should match pattern '^[A-Z]{3}$' (given 'usd')"),
        ("USD", "", "currency: is missing; add 'currency: ...'"),
        ("version,1", "version,0", "2: version: Input should be greater than 0"),
        ("00:00Z", "00:00", "4: valid_from: Value error, has no time zone; write it as 2026-11-01T00:00:00Z"),
        ("currency", "curency", "3: curency: unknown name; did you mean 'currency'?"),
        ("currency", "money", "3: money: unknown name; known names: book, version, currency, valid_from, valid_until, as_of"),
        ("spot_price_h,", "spot_price,", "6: spot_price: unknown name; did you mean 'spot_price_h'?"),
        ("price_h,spot_price_h", "price_h,price_h", "6: column price_h is there twice; keep one of them"),
        ("zone,price_h", ",price_h", "6: column 4: unknown name; known names: sku,"),
        ("version,1", "version,1,2", "2: version has more than one value; keep one"),
        ("version,1", "version,1\nversion,2", "3: version is said already in line 2; keep one of them"),
        ("\nm6i.large,aws,eu-central-1,,", '\n"m6i.large,aws,eu-central-1,,', "7: is not CSV: unexpected end of data"),
        (",", ";", "1: is separated by something else than commas; save it as comma-separated UTF-8"),
        (",", "\t", "1: is separated by something else than commas; save it as comma-separated UTF-8"),
        (",", ": ", "1: book: list: unknown name; did you mean 'book'?"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_fix(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = written(tmp_path, TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        shelf(tmp_path)
    told = str(caught.value)
    assert told.startswith((f"{path}:{says}", f"{path}: {says}")), told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1: has no row with names of columns; add one of: sku, provider, region"),
        ("book,list\n", "1: has no row with names of columns"),
        (TEXT.partition("m6i")[0], "6: has no prices; add a row, or end the version before with valid_until"),
        ("ledger,costs\n", "1: ledger: unknown name; known names: book"),
    ],
)
def test_a_file_that_is_no_book_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_book(path)
    assert str(caught.value).startswith(f"{path}:{says}"), caught.value


def test_another_encoding_is_told(tmp_path: Path) -> None:
    written(tmp_path, TEXT.replace("m6i.large", "größe"), encoding="latin-1")
    with pytest.raises(ConfigError, match=r"list-1.csv: is not UTF-8 .* save it as UTF-8"):
        shelf(tmp_path)


def test_books_of_both_kinds_supersede_and_contradict_each_other(tmp_path: Path) -> None:
    prices = tmp_path / "prices"
    write_book(prices, M6I)
    written(prices, table([M6I | {"price_h": 0.2}], version=2, valid_from="2026-06-01T00:00:00Z"), "list-2.csv")
    pools = inventory(load([write_fleet(tmp_path, POOL)], environment={}, at=at("2026-07-01T00:00"))).pools
    assert pools["shop-fra"].unit_price == 0.2
    more = written(prices, table([M6I], book="more"), "more.csv")
    with pytest.raises(ConfigError) as caught:
        shelf(prices)
    told = f"{more}:6: price of m6i.large in aws/eu-central-1 is also said by book list ({prices}/list-1.yaml:6)"
    assert told in str(caught.value)


def test_bad_books_of_both_kinds_are_told_at_once(tmp_path: Path) -> None:
    write_book(tmp_path, M6I | {"price_h": -1})
    written(tmp_path, TEXT.replace("0.115", "much"), "other.csv")
    with pytest.raises(ConfigError) as caught:
        shelf(tmp_path)
    told = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert told == [f"{tmp_path}/list-1.yaml:6", f"{tmp_path}/other.csv:7"]
