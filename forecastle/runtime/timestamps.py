"""The times of a file, however its writer spelled them: the file commands all read the same columns the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from forecastle.types import Ints

SECONDS_BELOW = 1e11
"""Plain numbers whose median is less are epoch seconds: as milliseconds they would lie before March 1973."""


def epoch_ms(stamps: Any) -> Ints:
    """Epoch milliseconds int64[n] of an arrow column: of any time type, ISO text, or epoch seconds or milliseconds.

    Raises pyarrow's ArrowInvalid or ArrowNotImplementedError for anything else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(stamps.type):
        stamps = pc.cast(stamps, stamps.type.value_type)
    if pa.types.is_string(stamps.type) or pa.types.is_large_string(stamps.type):
        stamps = pc.cast(stamps, pa.timestamp("ms"))
    if pa.types.is_temporal(stamps.type):
        at = pc.cast(pc.cast(stamps, pa.timestamp("ms"), safe=False), pa.int64()).to_numpy()
    else:
        at = pc.cast(stamps, pa.int64(), safe=False).to_numpy()
        at = at * 1000 if np.median(np.abs(at)) < SECONDS_BELOW else at
    return np.asarray(at, np.int64)
