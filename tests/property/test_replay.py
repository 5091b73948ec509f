"""A book is its journal: the same entries give the same events and bytes, from the start or from a snapshot.

Seen to fail for: orders that arrive again sorted by address, a field that the journal loses, and snapshots without
blocked orders, priorities, dead-man switches, own fees, link use, the rest of a fee, the reference price's minutes,
or client_order_ids; and for a change of an order that its updated_sequence does not tell.
"""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.book.order_book import OrderBook
from engine.book.state import decode, digest, digest_ahead, digest_some, encode
from engine.journal import GENESIS_HASH, check, events_hash, seal
from engine.messages import Entry
from tests.property.histories import History, Told, histories


@given(histories)
def test_replay_gives_the_same_events_and_the_same_bytes(history: History) -> None:
    told = Told(*history)
    again = OrderBook(told.spec)

    assert [again.apply(entry) for entry in told.entries] == told.events
    assert encode(again) == encode(told.book)


@given(histories, st.data())
def test_a_decoded_book_continues_as_if_nothing_had_happened(history: History, data: st.DataObject) -> None:
    told = Told(*history)
    stop = data.draw(st.integers(0, len(told.entries)))
    first = OrderBook(told.spec)
    for entry in told.entries[:stop]:
        first.apply(entry)

    second = decode(encode(first))

    assert encode(second) == encode(first)
    assert [second.apply(entry) for entry in told.entries[stop:]] == told.events[stop:]
    assert digest(second) == digest(told.book)


@given(histories)
def test_a_book_decoded_after_every_entry_is_the_same_book(history: History) -> None:
    told = Told(*history)
    book = OrderBook(told.spec)
    for entry, events in zip(told.entries, told.events, strict=True):
        book = decode(encode(book))
        assert book.apply(entry) == events
    assert encode(book) == encode(told.book)


@given(histories, st.data())
def test_a_digest_does_not_depend_on_when_others_were_taken(history: History, data: st.DataObject) -> None:
    """What an order keeps of its last digest is never older than the order, and what has ended counts once."""
    told = Told(*history)
    book = OrderBook(told.spec)
    for entry in told.entries:
        book.apply(entry)
        digest_some(book, data.draw(st.integers(0, 2)))
        if data.draw(st.booleans()):
            digest(book)
        if data.draw(st.booleans()):
            digest_ahead(book.orders.values())

    assert digest(book) == digest(told.book) == digest(decode(encode(told.book)))


@given(histories)
def test_books_of_other_bytes_have_other_digests(history: History) -> None:
    told = Told(*history)
    book = OrderBook(told.spec)
    found = {encode(book): digest(book)}
    for entry in told.entries:
        book.apply(entry)
        found[encode(book)] = digest(book)

    assert len(set(found.values())) == len(found)


@given(histories, st.integers(1, 9))
def test_a_journal_in_rows_of_any_size_replays(history: History, row_size: int) -> None:
    told = Told(*history)
    rows, previous_hash = [], GENESIS_HASH
    for start in range(0, len(told.entries), row_size):
        part = slice(start, start + row_size)
        rows.append(seal(1, told.entries[part], told.events[part], previous_hash))
        previous_hash = rows[-1].hash

    book, previous_hash = OrderBook(told.spec), GENESIS_HASH
    for row in rows:
        entries = check(row, book.sequence, previous_hash)
        assert events_hash([book.apply(entry) for entry in entries]) == row.events_hash
        previous_hash = row.hash

    assert encode(book) == encode(told.book)


@given(histories)
def test_entries_survive_the_journal_unchanged(history: History) -> None:
    told = Told(*history)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told.entries), type=list[Entry]) == told.entries
