"""Whatever arrives, the decoders of the edge answer with a value or a Problem, and take nothing that a strict and slow
reference refuses. Each accepted value has one text, so nothing is known by two names.

Seen to fail for: a cursor with zeros or bits to spare, an order id with leading zeros or superior digits, decimals in
digits of other scripts, an instant with a comma, a text for a boolean, brackets in brackets.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.auth.api_keys import Secrets
from gateway.auth.keys import open_keys
from gateway.auth.tokens import AccessTokens
from gateway.decimals import format_price, parse_energy, parse_price
from gateway.errors import Problem
from gateway.instants import format_instant, parse_instant
from gateway.orders import BatchRequest
from gateway.requests import cursor_of, decode_body, idempotency_key, parse_cursor
from gateway.trading import OrderRequest
from gateway.wire import order_id, parse_order_id

NOW_US = 1_800_000_000_000_000
DIGITS = st.text(alphabet="0123456789.-+eE_ \n\u0663\u0661\u00b2", max_size=12)
ANYTHING = st.text(max_size=40)


def accepted(decode: Callable[[], Any]) -> Any:
    """The value, or None for a refusal; any other exception is a bug."""
    try:
        return decode()
    except Problem as problem:
        refusal = problem
    assert 400 <= refusal.status < 500
    return None


def mutated(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Good texts, and those with one character changed, left out or put in."""

    def change(text: str, where: int, put: str, cut: int) -> str:
        place = where % (len(text) + 1)
        return text[:place] + put + text[place + cut :]

    return texts | st.builds(
        change, texts, st.integers(0, 2_000), st.text(max_size=2) | st.sampled_from(["=", "\n", ".", "-", "A"]),
        st.integers(0, 2),
    )  # fmt: skip


@given(mutated(st.decimals(0, 200_000, places=4).map(str)) | DIGITS | ANYTHING)
@example("1e3")
@example("1.")
@example("\u0663")
@example("1\n")
def test_decimals(text: str) -> None:
    price, energy = accepted(lambda: parse_price(text, "price")), accepted(lambda: parse_energy(text, "quantity"))

    is_plain = re.fullmatch(r"[0-9]{1,16}(\.[0-9]{1,12})?", text, re.ASCII)
    for value, scale, largest in ((price, 6, 100_000), (energy, 3, 1_000_000)):
        exact = Decimal(text).scaleb(scale) if is_plain else Decimal(0)
        is_good = 0 < exact <= Decimal(largest).scaleb(scale) and exact == exact.to_integral_value()
        if is_good and len(text.partition(".")[2]) <= scale:
            assert value == int(exact)
        else:
            assert value is None
    if price is not None:
        assert parse_price(format_price(price), "price") == price


KEYS = st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=3)


@given(mutated(KEYS.map(lambda key: cursor_of(*key))) | ANYTHING)
@example("MQ==")
@example("MR")
@example("MDE")
@example("!MQ")
def test_cursors(text: str) -> None:
    for parts in (1, 2, 3):
        key = accepted(partial(parse_cursor, text, parts))
        if key is not None:
            assert len(key) == parts
            assert cursor_of(*key) == text


@given(
    mutated(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(lambda at: at.isoformat() + "Z")) | ANYTHING
)
@example("2026-11-21T10:15:00,5Z")
@example("2026-11-21 10:15:00Z")
@example("2026-11-21T24:00:00Z")
@example("2026-11-21T10:15:60Z")
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
def test_instants(text: str) -> None:
    time_us = accepted(lambda: parse_instant(text, "from"))
    if time_us is None:
        return
    assert text.isascii()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", text)
    day, clock = text[:10], text[11:19]
    strict = datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    fraction = re.search(r"\.(\d+)", text)
    strict += timedelta(microseconds=int(fraction[1].ljust(6, "0")) if fraction else 0)
    if text[-1] not in "Zz":
        sign = 1 if text[-6] == "+" else -1
        strict -= sign * timedelta(hours=int(text[-5:-3]), minutes=int(text[-2:]))
    assert time_us == (strict - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_instant(format_instant(time_us), "from") == time_us


IDS = st.tuples(st.integers(0, 10**9 - 1), st.integers(0, 10**18 - 1))


@given(mutated(IDS.map(lambda two: order_id(*two))) | DIGITS)
@example("01-1")
@example("1-\u0663")
@example("1-1\n")
@example("1-\u00b2")
@example("1--1")
def test_order_ids(text: str) -> None:
    parts = accepted(lambda: parse_order_id(text))

    if parts is not None:
        assert order_id(*parts) == text


@given(st.binary(max_size=70))
@example(b"k\n")
def test_idempotency_keys(key: bytes) -> None:
    text = accepted(lambda: idempotency_key({b"idempotency-key": key}))

    assert (text is not None) is (re.fullmatch(rb"[A-Za-z0-9._:-]{1,64}", key) is not None)


FIELDS = {"market": "CAMPUS", "side": "buy", "type": "limit", "quantity": "1.000", "price": "3.000"}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ORDERS = st.fixed_dictionaries(
    {},
    optional={name: st.just(value) | JUNK for name, value in FIELDS.items()}
    | dict.fromkeys(("post_only", "client_order_id", "expires_at", "extra", "time_in_force"), JUNK),
)
TEXTS = ("market", "side", "type", "quantity", "price", "client_order_id", "expires_at", "time_in_force")


def check_order(order: OrderRequest, plain: Any) -> None:
    """Every field is what was sent, in the type that was sent."""
    assert isinstance(plain, dict)
    assert set(plain) <= set(OrderRequest.__struct_fields__)
    for name, value in plain.items():
        assert getattr(order, name) == value
        assert type(value) is (bool if name == "post_only" else str) or (value is None and name in TEXTS[4:]), name


@given(ORDERS.map(json.dumps).map(str.encode) | mutated(st.just(json.dumps(FIELDS))).map(str.encode) | st.binary())
@example(json.dumps({**FIELDS, "post_only": "true"}).encode())
@example(b"[" * 10_000)
@example(b'{"market": "\\ud800"}')
@example(b"\xff")
@example(b"NaN")
def test_json_bodies(body: bytes) -> None:
    order = accepted(lambda: decode_body(body, "application/json", OrderRequest))

    if order is not None:
        check_order(order, json.loads(body))


@given(ORDERS.map(lambda fields: _packed(fields)) | st.binary())
@example(b"\x91" * 10_000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc7\xff\x01")
def test_msgpack_bodies(body: bytes) -> None:
    order = accepted(lambda: decode_body(body, "application/msgpack", OrderRequest))

    if order is not None:
        check_order(order, msgspec.msgpack.decode(body))


@pytest.mark.parametrize(
    "body", [b'{"orders": [{"a": ' + b"[" * 100_000, b"\x81\xa6orders\x91\x81\xa1a" + b"\x91" * 100_000]
)
def test_brackets_without_end_are_refused(body: bytes) -> None:
    kind = "application/json" if body[:1] == b"{" else "application/msgpack"

    assert accepted(lambda: decode_body(body, kind, BatchRequest)) is None


def _packed(fields: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(fields)
    except OverflowError:  # msgpack has no integers so large
        return b"\xc1"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


class Strict:
    """Access tokens as RFC 7515 and 7519 have them, checked slowly."""

    def __init__(self, directory: Path) -> None:
        self._ring = open_keys(directory)
        self.tokens = AccessTokens(
            open_keys(directory), lambda: NOW_US, lambda: 0, issuer="i", audience="a", seconds=900, remembered_max=10
        )
        self.good = self.tokens.issue(7, "student", "s-1")

    def is_good(self, token: str) -> bool:
        parts = token.split(".")
        if len(parts) != 3:
            return False
        try:
            head, claims, signature = (_canonical(part) for part in parts)
            fields = json.loads(head)
            key = self._ring.public_key(fields["kid"])
            if fields["alg"] != "EdDSA" or key is None:
                return False
            key.verify(signature, f"{parts[0]}.{parts[1]}".encode())
            return bool(json.loads(claims)["exp"] * 1_000_000 > NOW_US)
        except (ValueError, KeyError, TypeError, InvalidSignature):
            return False


def _canonical(part: str) -> bytes:
    """Raises ValueError for what is not the one base64url text of its bytes."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise ValueError(part)
    return data


@given(st.data())
def test_access_tokens(keys: Path, data: st.DataObject) -> None:
    strict = Strict(keys)
    token = data.draw(mutated(st.just(strict.good)) | ANYTHING | st.binary().map(lambda raw: raw.decode("latin-1")))

    claims = accepted(lambda: strict.tokens.check(token))

    if claims is not None:
        assert strict.is_good(token)
        assert (claims.user_id, claims.session_id) == (7, "s-1")
    assert accepted(lambda: strict.tokens.check(strict.good)) is not None


@pytest.mark.parametrize("put", ["=", "!", " ", "\n", "\u00e9"])
def test_an_access_token_has_one_text(keys: Path, put: str) -> None:
    strict = Strict(keys)
    head, claims, signature = strict.good.split(".")
    spare = signature[:-1] + chr(ord(signature[-1]) + 1)  # the last character has bits that mean nothing
    others = [f"{head}.{claims}.{spare}", f"{head}.{claims}.{put}{signature}", strict.good + put, put + strict.good]

    assert [accepted(partial(strict.tokens.check, token)) for token in others] == [None] * 4


SECRETS = Secrets(b"p" * 32)


@given(mutated(st.builds(lambda: SECRETS.make()[1])) | ANYTHING)
def test_api_keys(text: str) -> None:
    key_id = accepted(lambda: SECRETS.key_id(text))

    if key_id is not None:
        assert re.fullmatch(rb"wb_[a-z2-7]{16}_[A-Za-z0-9_-]{43}", text.encode("utf-8"))
        assert text[3:19] == key_id


@given(st.data())
def test_a_changed_api_key_is_another(data: st.DataObject) -> None:
    _, secret, kept = SECRETS.make()
    other = data.draw(mutated(st.just(secret)))

    assert SECRETS.fits(other, kept) is (other == secret)
