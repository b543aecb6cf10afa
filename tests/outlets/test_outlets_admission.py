"""Who is let in: signatures as the official library makes them, replays told from retries, and passwords."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from standardwebhooks import Webhook as Signer

from forecastle.errors import ConfigError, Denied, StoreUnavailable, Transient
from forecastle.outlets import signature
from forecastle.outlets.admission import Passwords, Signatures

NOW = 1_760_000_000
SECRETS = {f"IN_{i}": "whsec_" + base64.b64encode(bytes([i]) * 32).decode() for i in (1, 2, 3)}
KEYS = [signature.key(secret, name) for name, secret in SECRETS.items()]
BODY = b'{"type":"signal.raised"}'


def signed(ident: str = "msg_1", at_s: int = NOW, body: bytes = BODY, secret: str = "IN_1") -> dict[str, str]:
    """Headers as the official library signs them."""
    made = Signer(SECRETS[secret]).sign(ident, datetime.fromtimestamp(at_s, UTC), body.decode())
    return {"webhook-id": ident, "webhook-timestamp": str(at_s), "webhook-signature": made}


def verify(named: dict[str, str], body: bytes = BODY, keys: list[bytes] = KEYS) -> signature.Stamp:
    return signature.verify(keys, named, body, now_s=NOW, tolerance_s=300)


class Clock:
    def __init__(self) -> None:
        self.now_s = float(NOW)

    def __call__(self) -> float:
        return self.now_s


def door(most: int = 100) -> tuple[Signatures, Clock, list[str]]:
    clock = Clock()
    return Signatures(["IN_1", "IN_2"], SECRETS, most=most, now=clock), clock, []


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", SECRETS)
def test_what_the_official_library_signs_with_any_secret_is_let_in(secret: str) -> None:
    assert verify(signed(secret=secret)) == signature.Stamp("msg_1", NOW)


def test_one_fitting_signature_among_several_is_enough() -> None:
    named = signed(secret="IN_2")
    named["webhook-signature"] = f"v1a,AAAA v1,bm90IGl0 v1,!!! {named['webhook-signature']} v1,"
    assert verify(named).ident == "msg_1"


def test_a_rotated_out_secret_no_longer_opens() -> None:
    with pytest.raises(Denied, match="fits no configured secret"):
        verify(signed(secret="IN_3"), keys=KEYS[:2])


@pytest.mark.parametrize("age", [-300, 300])
def test_the_edge_of_the_tolerance_is_still_within(age: int) -> None:
    assert verify(signed(at_s=NOW - age)).at_s == NOW - age


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_what_is_older_or_newer_is_stale(age: int) -> None:
    with pytest.raises(Denied, match="more than 300 s"):
        verify(signed(at_s=NOW - age))


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("webhook-id", "", "webhook-id"),
        ("webhook-id", "x" * 257, "webhook-id"),
        ("webhook-id", "msg_1.17", "webhook-id"),
        ("webhook-timestamp", "", "not a number"),
        ("webhook-timestamp", "-5", "not a number"),
        ("webhook-timestamp", "1.76e9", "not a number"),
        ("webhook-timestamp", "\u0661\u0667", "not a number"),
        ("webhook-timestamp", "9" * 13, "not a number"),
        ("webhook-signature", "", "fits no"),
        ("webhook-signature", "v1,", "fits no"),
        ("webhook-signature", "v1,\u00e9", "fits no"),
        ("webhook-id", "msg_2", "fits no"),
        ("webhook-timestamp", str(NOW - 1), "fits no"),
    ],
)
def test_a_bent_header_is_denied(header: str, value: str, said: str) -> None:
    with pytest.raises(Denied, match=said):
        verify(signed() | {header: value})


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_denied(missing: str) -> None:
    named = signed()
    del named[missing]
    with pytest.raises(Denied):
        verify(named)


def test_a_dot_in_the_id_cannot_move_text_between_id_timestamp_and_body() -> None:
    """``a.1`` + ``2`` + body and ``a`` + ``1`` + ``2.body`` sign the same bytes."""
    stolen = signature.headers(KEYS[:1], f"a.{NOW}", 2, BODY)["webhook-signature"]
    assert verify({"webhook-id": "a", "webhook-timestamp": str(NOW), "webhook-signature": stolen}, b"2." + BODY).ident == "a"
    with pytest.raises(Denied, match="dot"):
        verify({"webhook-id": f"a.{NOW}", "webhook-timestamp": str(NOW), "webhook-signature": stolen})


@hypothesis(max_examples=40, deadline=None)
@given(at=st.integers(0, len(BODY) - 1), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_body_is_noticed(at: int, flip: int) -> None:
    bent = bytes(byte ^ flip if i == at else byte for i, byte in enumerate(BODY))
    with pytest.raises(Denied):
        verify(signed(), bent)


@hypothesis(max_examples=40, deadline=None)
@given(ident=st.text(st.characters(codec="ascii", exclude_characters=".", min_codepoint=33), min_size=1, max_size=64))
def test_what_we_sign_we_verify(ident: str) -> None:
    named = signature.headers(KEYS[1:], ident, NOW, BODY)
    assert verify(named) == signature.Stamp(ident, NOW)


# --- replays --------------------------------------------------------------------------------------------------------


def test_the_same_request_does_not_count_twice() -> None:
    door_, _, taken = door()
    assert door_.accept(signed(), BODY, lambda: taken.append("first"))
    with pytest.raises(Denied, match="seen before"):
        door_.accept(signed(), BODY, lambda: taken.append("second"))
    assert taken == ["first"]


def test_a_senders_next_try_is_welcome_and_taken_once() -> None:
    door_, _, taken = door()
    door_.accept(signed(), BODY, lambda: taken.append("first"))
    assert not door_.accept(signed(at_s=NOW + 5), BODY, lambda: taken.append("again"))
    assert taken == ["first"]
    for at in (NOW, NOW + 5):  # and neither of both can be replayed
        with pytest.raises(Denied, match="seen before"):
            door_.accept(signed(at_s=at), BODY, lambda: taken.append("replay"))


def test_what_could_not_be_taken_may_come_again() -> None:
    door_, _, taken = door()

    def fail() -> None:
        raise StoreUnavailable("full")

    with pytest.raises(StoreUnavailable):
        door_.accept(signed(), BODY, fail)
    assert door_.accept(signed(), BODY, lambda: taken.append("now"))
    assert taken == ["now"]


def test_a_full_memory_turns_newcomers_away_rather_than_forget() -> None:
    door_, clock, taken = door(most=3)
    for i in range(3):
        door_.accept(signed(f"m{i}"), BODY, lambda: taken.append("x"))
    with pytest.raises(Transient, match="too many"):
        door_.accept(signed("m3"), BODY, lambda: taken.append("x"))
    with pytest.raises(Denied, match="seen before"):
        door_.accept(signed("m0"), BODY, lambda: taken.append("x"))
    clock.now_s += 301
    assert door_.accept(signed("m3", NOW + 301), BODY, lambda: taken.append("x"))
    assert len(taken) == 4


def test_an_id_is_remembered_while_its_timestamp_is_accepted() -> None:
    """A timestamp from the sender's fast clock stays acceptable for longer than one of now."""
    door_, clock, _ = door()
    door_.accept(signed("early", NOW + 300), BODY, lambda: None)
    clock.now_s += 600
    with pytest.raises(Denied, match="seen before"):
        door_.accept(signed("early", NOW + 300), BODY, lambda: None)
    clock.now_s += 1
    with pytest.raises(Denied, match="more than"):
        door_.accept(signed("early", NOW + 300), BODY, lambda: None)


@hypothesis(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-320, 320), st.integers(0, 200)), max_size=40))
def test_no_request_is_ever_accepted_twice(calls: list[tuple[int, int, int]]) -> None:
    """However times go and however full the memory is; and a retry within the tolerance is taken once."""
    door_, clock, _ = door(most=4)
    accepted: set[tuple[str, int]] = set()
    taken_at: dict[str, int] = {}
    for number, skew, wait in calls:
        clock.now_s += wait
        ident, at = f"m{number}", int(clock.now_s) + skew
        try:
            fresh = door_.accept(signed(ident, at), BODY, lambda: None)
        except (Denied, Transient):
            continue
        assert (ident, at) not in accepted
        accepted.add((ident, at))
        assert not fresh or taken_at.get(ident, 0) < clock.now_s - 300
        taken_at[ident] = at


def test_secrets_that_will_not_do_are_refused_by_name_only() -> None:
    with pytest.raises(ConfigError, match=r"outlets\.doorbell\.secrets: IN_9") as caught:
        Signatures(["IN_9"], {"IN_9": "whsec_c2hvcnQ="})
    assert "c2hvcnQ" not in str(caught.value)
    with pytest.raises(ConfigError, match="needs a secret"):
        Signatures([], SECRETS)


# --- passwords ------------------------------------------------------------------------------------------------------

ENVIRONMENT = {"TOKEN": "t" * 32, "NEXT": "n" * 32, "PAIR": "alert:manager-and-more", "SHORT": "abc", "ODD": "x" * 20}


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    "header",
    ["Bearer " + "t" * 32, "bearer " + "n" * 32, "BEARER  " + "t" * 32, basic("alert:manager-and-more")],
)
def test_each_of_the_known_opens(header: str) -> None:
    Passwords(["TOKEN", "NEXT"], ["PAIR"], ENVIRONMENT).check(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "t" * 32,
        "Bearer " + "t" * 31,
        "Bearer " + "t" * 33,
        "Bearer " + "T" * 32,
        "Basic " + "t" * 32,
        basic("alert:wrong"),
        "Bearer alert:manager-and-more",
        "Bearer \udcff",
    ],
)
def test_nothing_else_does(header: str) -> None:
    with pytest.raises(Denied):
        Passwords(["TOKEN", "NEXT"], ["PAIR"], ENVIRONMENT).check(header)


@pytest.mark.parametrize(
    ("tokens", "pairs", "said"),
    [
        (["SHORT"], [], "SHORT holds less than 16"),
        (["ABSENT"], [], "ABSENT holds less than 16"),
        ([], ["ODD"], "ODD does not hold user:password"),
        ([], [], "needs a secret"),
    ],
)
def test_a_door_without_a_proper_secret_is_not_made(tokens: list[str], pairs: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Passwords(tokens, pairs, ENVIRONMENT)
