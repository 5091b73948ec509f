"""Laws of settlements over trades that collide: nothing is made or lost, the parts can be paid, proofs prove.

Seen to fail for: a fee that is not booked, charges left out, a node doubled where it has no sibling, a leaf hashed like
a node, gains told before payments, a part left out, a time from which nothing is taken, a verifier that ignores the
place, or what is left of the path.
"""

from collections import Counter
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import CURRENCY
from engine.settlement.merkle import Tree, leaf_hash, node_hash, root_of
from engine.settlement.netting import PARTS_MAX, Delta, Rule, choose, deltas, is_due, net, settle, split
from engine.settlement.proofs import ProofWrong, prove, verify
from engine.settlement.trades import SIDES, SettledSide, SettledTrade
from tests.support.settlement import SALT, naive_deltas, naive_root

people, zones = st.integers(1, 9), st.sampled_from(("A", "B", "C"))
amounts = st.integers(0, 5_000)


@st.composite
def trades(draw: st.DrawFn, least: int = 1) -> list[SettledTrade]:
    """In the order of their time, of three markets; a rebate is at most the other side's fee."""
    found, time_us, numbers = [], 0, Counter[int]()
    for sequence in range(draw(st.integers(least, 25))):
        market_id, fee = draw(st.integers(1, 3)), draw(amounts)
        numbers[market_id] += 1
        value = draw(amounts)
        time_us += draw(st.integers(0, 3))
        found.append(
            SettledTrade(
                market_id=market_id,
                number=numbers[market_id],
                sequence=sequence,
                time_us=time_us,
                energy_wh=draw(st.integers(1, 50)),
                buyer=SettledSide(draw(people), draw(zones), value + draw(amounts), fee),
                seller=SettledSide(draw(people), draw(zones), value, draw(st.integers(-fee, 50))),
            )
        )
    return found


@given(trades())
def test_of_each_asset_nothing_is_made_or_lost(taken: list[SettledTrade]) -> None:
    sums: Counter[str] = Counter()
    for (_, asset), amount in net(taken).items():
        sums[asset] += amount

    assert not any(sums.values())
    assert CURRENCY in sums


@given(trades())
def test_netting_agrees_with_asking_everybody(taken: list[SettledTrade]) -> None:
    assert deltas(net(taken)) == naive_deltas(taken)


@given(trades(), st.integers(1, 7))
def test_parts_in_their_order_are_paid_from_what_was_paid_in(taken: list[SettledTrade], part_accounts: int) -> None:
    changes = deltas(net(taken))

    parts = split(changes, part_accounts)

    energy = currency = 0
    for part in parts:
        assert 1 <= len(part.deltas) <= part_accounts
        energy -= sum(min(one.energy_wh, 0) for one in part.deltas)
        currency -= sum(min(one.currency_micro, 0) for one in part.deltas)
        energy -= sum(max(one.energy_wh, 0) for one in part.deltas)
        currency -= sum(max(one.currency_micro, 0) for one in part.deltas)
        assert energy >= 0
        assert currency >= 0
    assert (energy, currency) == (0, 0)


@given(trades(), st.integers(1, 7))
def test_parts_come_to_what_was_netted(taken: list[SettledTrade], part_accounts: int) -> None:
    changes = deltas(net(taken))
    sums: dict[str, Delta] = {}

    for part in split(changes, part_accounts):
        for one in part.deltas:
            was = sums.get(one.account, Delta(one.account))
            sums[one.account] = Delta(
                one.account, was.energy_wh + one.energy_wh, was.currency_micro + one.currency_micro
            )

    assert sorted((one for one in sums.values() if one != Delta(one.account)), key=lambda one: one.account) == changes


@given(trades(), st.integers(1, 7))
def test_parts_that_pay_in_may_go_in_any_order(taken: list[SettledTrade], part_accounts: int) -> None:
    parts = split(deltas(net(taken)), part_accounts)
    first = [part for part in parts if part.after == 0]

    if len(parts) > 1:
        assert all(one.energy_wh <= 0 and one.currency_micro <= 0 for part in first for one in part.deltas)
        assert {part.after for part in parts} <= {0, len(first)}


@given(trades(least=0), st.integers(1, 8), st.integers(0, 80), st.integers(1, 9))
def test_trades_are_taken_in_order_and_when_due(
    waiting: list[SettledTrade], trades_max: int, now_us: int, every_us: int
) -> None:
    rule = Rule(every_us=every_us, trades_max=trades_max, part_accounts=1)

    chosen = choose(waiting, now_us, rule)

    assert chosen == waiting[: len(chosen)]
    oldest_us = waiting[0].time_us if waiting else 0
    assert is_due(len(waiting), oldest_us, now_us, rule) is bool(chosen)
    assert len(chosen) <= trades_max
    due = [one for one in waiting if one.time_us < now_us // every_us * every_us]
    if len(waiting) >= trades_max:
        assert len(chosen) == trades_max
    else:
        assert chosen == due


@given(trades(), st.integers(5, 12))
def test_a_settlement_never_has_more_accounts_than_its_parts_can_hold(taken: list[SettledTrade], most: int) -> None:
    class Narrow(Rule, frozen=True):
        @property
        def accounts_max(self) -> int:
            return most

    chosen = choose(taken, 10**6, Narrow(every_us=1, trades_max=100, part_accounts=1))

    assert chosen  # else settling would stand still for ever
    assert len(deltas(net(chosen))) <= most
    assert len(split(deltas(net(chosen)), 1)) <= PARTS_MAX


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=40))
def test_the_tree_is_that_of_the_rfc_and_every_path_leads_to_its_root(contents: list[bytes]) -> None:
    leaves = [leaf_hash(content) for content in contents]

    tree = Tree(leaves)

    assert tree.root == naive_root(leaves)
    for index, leaf in enumerate(leaves):
        assert root_of(leaf, index, len(leaves), tree.path(index)) == tree.root


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=20, unique=True), st.data())
def test_a_path_is_good_for_its_leaf_and_place_alone(contents: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(content) for content in contents]
    tree, index = Tree(leaves), data.draw(st.integers(0, len(leaves) - 1))
    path, place = tree.path(index), data.draw(st.integers(-1, len(leaves) + 2))
    other = data.draw(st.sampled_from([leaf_hash(b"none"), *leaves, tree.root, *path]))

    same = (other, place) == (leaves[index], index)
    assert (root_of(other, place, len(leaves), path) == tree.root) is same
    assert root_of(leaves[index], index, len(leaves), [*path, bytes(32)]) is None
    assert not path or root_of(leaves[index], index, len(leaves), path[:-1]) is None


@given(st.lists(st.binary(max_size=3), min_size=2, max_size=20))
def test_neither_an_inner_node_nor_a_repeated_leaf_gives_the_root_again(contents: list[bytes]) -> None:
    leaves = [leaf_hash(content) for content in contents]
    above = [node_hash(a, b) for a, b in pairwise(leaves)][::2] + leaves[len(leaves) & ~1 :]

    assert Tree([*leaves, leaves[-1]]).root != Tree(leaves).root
    assert leaf_hash(leaves[0] + leaves[1]) != node_hash(leaves[0], leaves[1])
    if len(above) < len(leaves):
        assert root_of(above[0], 0, len(leaves), Tree(leaves).path(0)[1:]) is None


@given(trades(), st.data())
def test_a_proof_proves_its_trade_and_nothing_else(taken: list[SettledTrade], data: st.DataObject) -> None:
    settlement = settle(taken, 7, SALT, 5)
    index, side = data.draw(st.integers(0, len(taken) - 1)), data.draw(st.sampled_from(SIDES))

    proof = prove(taken[index], side, 7, SALT, settlement.leaves, index)

    assert msgspec.json.decode(msgspec.json.encode(proof), type=type(proof)) == proof
    verify(proof, settlement.root)
    own = taken[index].side(side)
    assert (proof.participant_id, proof.value_micro, proof.fee_micro) == (
        own.participant_id,
        own.value_micro,
        own.fee_micro,
    )
    field = data.draw(st.sampled_from(proof.__struct_fields__[1:]))
    with pytest.raises(ProofWrong):
        verify(msgspec.structs.replace(proof, **{field: changed(getattr(proof, field))}), settlement.root)


def changed(value: object) -> object:
    """Another value of the same kind."""
    match value:
        case "buyer" | "seller":
            return "seller" if value == "buyer" else "buyer"
        case int():
            return value + 1
        case str():
            return ("1" if value[:1] == "0" else "0") + value[1:]
        case _:
            return [*value, "00" * 32]  # type: ignore[misc]
