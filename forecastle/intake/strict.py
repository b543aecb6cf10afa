"""Why a JSON text was refused, as stable codes, and the two checks that typed parsers leave out.

`msgspec` refuses NaN, numbers out of range, booleans for numbers, bad UTF-8 and deep nesting by itself; of a repeated key it
silently takes the last value, so repetition is looked for here, exactly.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from forecastle.errors import Malformed

WORDS = (
    ("unknown field", "unknown_field"),
    ("missing required", "missing_field"),
    ("out of range", "out_of_range"),
    ("Expected `int` >=", "out_of_range"),
    ("Expected `int` <=", "out_of_range"),
    ("Expected", "wrong_type"),
)
PARSE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def refusal(error: Exception) -> Malformed:
    """The Malformed that a parser's ``error`` means.

    Codes: ``bad_utf8``, ``too_deep``, ``unknown_field``, ``missing_field``, ``out_of_range``, ``wrong_type``, ``not_json``.
    """
    text = str(error)[:200]
    if isinstance(error, Malformed):
        return error
    if isinstance(error, UnicodeDecodeError):
        return Malformed("bad_utf8", f"at byte {error.start}")
    if isinstance(error, RecursionError):
        return Malformed("too_deep")
    if isinstance(error, msgspec.ValidationError):
        return Malformed(next((code for words, code in WORDS if words in text), "wrong_type"), text)
    return Malformed("not_json", text)


def no_repeated_keys(value: bytes) -> None:
    """Raises Malformed ``duplicate_key``. Slow and exact; for the few texts that a cheap count could not clear.

    A part that a parser skipped may be no JSON at all: that is refused as what it is.
    """
    try:
        json.loads(value, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except (Malformed, *PARSE_ERRORS) as error:
        raise refusal(error) from None


def refuse_repetition(value: bytes) -> None:
    """Raises Malformed ``duplicate_key`` for a parsable text; one whose quotation marks survive a round trip is clear."""
    try:
        plain = msgspec.json.encode(msgspec.json.decode(value))
    except PARSE_ERRORS as error:
        raise refusal(error) from None
    if b"\\u" in value or plain.count(b'"') != value.count(b'"'):
        no_repeated_keys(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed("duplicate_key", next(name for name in names if names.count(name) > 1)[:100])
    return made
