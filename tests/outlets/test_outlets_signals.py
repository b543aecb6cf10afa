"""The journal of signals: what is heard at a tick is a function of it, whatever stops and starts in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from outlet_worlds import START, STEP, STOCK, tick

from forecastle.errors import ConfigError, StoreUnavailable
from forecastle.outlets.signals import Signal, SignalBook
from forecastle.types import AnomalyKind, Severity

HOLD_S = 600.0


def signal(at: int = START, *, firing: bool = True, **changes: Any) -> Signal:
    made = {"name": "alertmanager/f1", "alert": "TooSlow", "workload": "shop", "site": "fra", "severity": Severity.WARNING}
    return Signal(**(made | {"kind": AnomalyKind.SPIKE, "firing": firing, "at": at, "summary": "p99 is 2 s"} | changes))


def book(folder: Path, **changes: Any) -> SignalBook:
    made = {"hold_s": HOLD_S, "keep_ms": 100 * STEP, "most": 100} | changes
    now = made.pop("now", lambda: START)
    return SignalBook(folder / "signals.jsonl", STOCK, now, **made)


def names(found: SignalBook, at: int) -> list[str]:
    return [str(a.evidence["signal"]) for a in found.heard(at)]


def test_a_signal_is_heard_from_the_next_tick_until_it_is_over(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal(tick(1))])
    found.accept([signal(tick(4), firing=False)])
    assert [len(found.heard(tick(i))) for i in range(7)] == [0, 0, 1, 1, 1, 0, 0]


def test_what_it_says_arrives_as_an_anomaly_of_one_witness(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal(severity=Severity.CRITICAL, kind=AnomalyKind.TREND)])
    (told,) = found.heard(tick(1))
    assert (str(told.key), told.at, told.kind) == ('shop:alert/TooSlow{site="fra"}', tick(1), AnomalyKind.TREND)
    assert told.score > told.threshold
    assert (told.evidence["witness"], told.evidence["severity"], told.evidence["summary"]) == (
        "alert",
        "critical",
        "p99 is 2 s",
    )


def test_without_a_site_there_is_no_label(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal(site="")])
    assert found.heard(tick(1))[0].key.labels == ()


def test_a_signal_that_nobody_repeats_is_let_go(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal()])
    assert len(found.heard(START + int(HOLD_S * 1000))) == 1
    assert found.heard(START + int(HOLD_S * 1000) + 1) == ()


def test_a_repeat_keeps_it(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal()])
    found.accept([signal(tick(9))])
    assert len(found.heard(tick(15))) == 1


def test_repeats_that_change_nothing_are_not_written(tmp_path: Path) -> None:
    found = book(tmp_path)
    for second in range(100):
        found.accept([signal(START + second * 1000)])
    found.accept([signal(tick(9), firing=False, name="alertmanager/never-fired")])
    assert len((tmp_path / "signals.jsonl").read_bytes().splitlines()) == 1
    found.accept([signal(START + 100_000, severity=Severity.CRITICAL)])
    assert len((tmp_path / "signals.jsonl").read_bytes().splitlines()) == 2


def test_a_restart_hears_at_past_ticks_what_was_heard_then(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.accept([signal(tick(1)), signal(tick(1), name="b", workload="mail", site="")])
    found.accept([signal(tick(4), firing=False)])
    then = [found.heard(tick(i)) for i in range(20)]
    again = book(tmp_path)
    assert [again.heard(tick(i)) for i in range(20)] == then


def test_a_half_record_left_by_a_crash_is_dropped_and_written_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    book(tmp_path).accept([signal()])
    path = tmp_path / "signals.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    found = book(tmp_path)
    assert "half record" in caplog.text
    found.accept([signal(name="second")])
    assert names(book(tmp_path), tick(1)) == ["alertmanager/f1", "second"]


@pytest.mark.parametrize("line", [b"not json\n", b"{}\n", b'{"name":1}\n', b"\xff\n"])
def test_a_journal_that_is_none_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "signals.jsonl").write_bytes(line)
    with pytest.raises(ConfigError, match=r"signals\.jsonl cannot be used .* remove it"):
        book(tmp_path)


def test_a_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "signals.jsonl").mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        book(tmp_path)


def test_what_cannot_be_made_durable_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = book(tmp_path)
    found.accept([signal()])
    before = (tmp_path / "signals.jsonl").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        found.accept([signal(name="second")])
    assert names(found, tick(1)) == ["alertmanager/f1"]
    assert (tmp_path / "signals.jsonl").read_bytes() == before


def test_a_full_journal_leaves_out_what_nobody_can_ask_for(tmp_path: Path) -> None:
    now = [START]
    found = book(tmp_path, now=lambda: now[0], most=10)
    found.accept([signal(START, name=f"s{i}") for i in range(10)])
    with pytest.raises(StoreUnavailable, match="holds 10 signals"):
        found.accept([signal(START, name="s10")])
    now[0] = START + 200 * STEP
    found.accept([signal(now[0], name="s11")])
    assert names(found, now[0] + 1) == ["s11"]
    assert names(book(tmp_path), now[0] + 1) == ["s11"]
    assert [p.name for p in tmp_path.iterdir()] == ["signals.jsonl"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"site": ""}, ""),
        ({"workload": ""}, "no workload"),
        ({"workload": "*"}, "workload unknown"),
        ({"workload": "other"}, "workload unknown"),
        ({"site": "moon"}, "site unknown"),
    ],
)
def test_only_what_is_in_the_inventory_is_for_us(tmp_path: Path, changes: dict[str, str], why: str) -> None:
    assert book(tmp_path).refusal(signal(**changes)) == why


def test_the_form_on_disk_is_one_json_object_a_line(tmp_path: Path) -> None:
    book(tmp_path).accept([signal(), signal(name="b", firing=True)])
    lines = (tmp_path / "signals.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line)["name"] for line in lines] == ["alertmanager/f1", "b"]


calls = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 400)), max_size=30)


@hypothesis(max_examples=25, deadline=None)
@given(calls)
def test_heard_is_the_fold_of_what_was_told(told: list[tuple[int, bool, int]]) -> None:
    """Against the plain reading: the last word before the tick, unless it is too old. Refreshes may come a quarter early."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = book(Path(folder), hold_s=1e9, most=1000)
        at, last = START, {}
        for number, firing, seconds in told:
            at += seconds * 1000 + 1
            found.accept([signal(at, firing=firing, name=f"n{number}")])
            last[f"n{number}"] = firing
            assert set(names(found, at + 1)) == {name for name, on in last.items() if on}
        again = book(Path(folder), hold_s=1e9, most=1000)
        assert again.heard(at + 1) == found.heard(at + 1)
