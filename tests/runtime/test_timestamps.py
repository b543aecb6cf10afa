"""One reading of times for every file command."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from forecastle.runtime.timestamps import epoch_ms

AT = [1_700_000_000_000, 1_700_000_060_000]
TIMES = [datetime.fromtimestamp(at / 1000, UTC) for at in AT]
SPELLINGS = {
    "timestamp with zone": pa.array(TIMES, pa.timestamp("us", "UTC")),
    "timestamp of another zone": pa.array(TIMES, pa.timestamp("s", "Asia/Kolkata")),
    "timestamp without zone": pa.array([t.replace(tzinfo=None) for t in TIMES], pa.timestamp("ns")),
    "ISO text": pa.array([t.replace(tzinfo=None).isoformat() for t in TIMES]),
    "large ISO text": pa.array([t.replace(tzinfo=None).isoformat() for t in TIMES], pa.large_string()),
    "dictionary of ISO text": pa.array([t.replace(tzinfo=None).isoformat() for t in TIMES]).dictionary_encode(),
    "milliseconds": pa.array(AT),
    "seconds": pa.array([at // 1000 for at in AT]),
    "seconds as a float": pa.array([at / 1000 for at in AT]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_time(spelling: str) -> None:
    found = epoch_ms(pa.chunked_array([SPELLINGS[spelling]]))
    assert found.dtype == "int64"
    assert found.tolist() == AT


def test_days_are_midnights() -> None:
    assert epoch_ms(pa.chunked_array([pa.array([19_675], pa.date32())])).tolist() == [19_675 * 86_400_000]


def test_text_that_is_no_time_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="yesterday"):
        epoch_ms(pa.chunked_array([pa.array(["yesterday"])]))
