"""A journal is a hash chain: whatever is changed, dropped, repeated or moved in it, `check` refuses it.

Seen to fail for: hash not compared, previous hash not compared, entries or state hash left out of the hash, neither
sequence nor previous hash compared.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal import GENESIS_HASH, JournalBroken, JournalRow, check, seal
from engine.messages import Entry, Fund, Tick

FIELDS = list(JournalRow.__struct_fields__)


def chain(sizes: list[int], market_id: int = 1) -> list[JournalRow]:
    """Rows with so many entries each."""
    rows: list[JournalRow] = []
    sequence = 0
    for size in sizes:
        entries = [Entry(sequence + 1 + i, 1_000 + sequence + i, Fund(sequence + 1 + i, 1, "", 5)) for i in range(size)]
        steps: list[list[object]] = [[] for _ in entries]
        previous_hash = rows[-1].hash if rows else GENESIS_HASH
        rows.append(seal(market_id, entries, steps, previous_hash, state_hash=bytes([size]) * 32))  # type: ignore[arg-type]
        sequence += size
    return rows


def read(rows: list[JournalRow]) -> int:
    """Check the whole chain, as a replay does; the last sequence."""
    sequence, previous_hash = 0, GENESIS_HASH
    for row in rows:
        sequence = check(row, sequence, previous_hash)[-1].sequence
        previous_hash = row.hash
    return sequence


chains = st.lists(st.integers(1, 4), min_size=3, max_size=6).map(chain)


@given(chains)
def test_an_untouched_chain_is_read_to_its_end(rows: list[JournalRow]) -> None:
    assert read(rows) == rows[-1].last_sequence


@given(chains, st.data())
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_a_row_can_be_changed(field: str, rows: list[JournalRow], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(rows) - 1))
    value = getattr(rows[index], field)
    if isinstance(value, int):
        other: object = value + data.draw(st.sampled_from((-1, 1)))
    else:
        at = data.draw(st.integers(0, len(value) - 1))
        other = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    rows[index] = msgspec.structs.replace(rows[index], **{field: other})

    with pytest.raises(JournalBroken):
        read(rows)


@given(chains, st.data())
def test_no_row_can_be_dropped_repeated_or_moved(rows: list[JournalRow], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(rows) - 2))  # dropping the last row is for the fence and the cursor to notice
    row = rows.pop(index)
    where = data.draw(st.sampled_from(("dropped", "repeated", "later")))
    if where == "repeated":
        rows[index:index] = [row, row]
    elif where == "later":
        rows.insert(data.draw(st.integers(index + 1, len(rows))), row)

    with pytest.raises(JournalBroken):
        read(rows)


@given(chains, st.data())
def test_a_resealed_row_breaks_the_row_after_it(rows: list[JournalRow], data: st.DataObject) -> None:
    """Who can compute hashes can forge a row, but then has to forge all that follow."""
    index = data.draw(st.integers(0, len(rows) - 2))
    row = rows[index]
    forged = [Entry(s, 999, Tick()) for s in range(row.first_sequence, row.last_sequence + 1)]
    rows[index] = seal(1, forged, [[] for _ in forged], row.previous_hash, row.state_hash)

    with pytest.raises(JournalBroken, match="does not continue the row before it"):
        read(rows)


@given(chains)
def test_the_tail_of_another_markets_chain_does_not_fit(rows: list[JournalRow]) -> None:
    other = chain([row.last_sequence - row.first_sequence + 1 for row in rows], market_id=2)

    with pytest.raises(JournalBroken):
        read(rows[:1] + other[1:])
