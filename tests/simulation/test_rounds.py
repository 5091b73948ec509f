"""Rounds of a lane that overlap, a submitter that dies between any two of their steps, and still each effect once.

Nothing on this chain guards an effect: what keeps it single is that a claim is one round's, that bytes are stored
before they are sent, and that new ones are signed only after the old ones can land no more. `LONG=1`: 1,000 seeds.

Seen to fail for: two claims of a lane at once, bytes that are sent before they are stored, new ones signed one block
or more before the old ones are out of date, keys that change while a round is under way, lanes that go on while keys
shall change.
"""

import os
from collections import Counter

import pytest

from engine.submission import Absent, Learnt, State, Submission, step
from tests.simulation.rounds_world import EFFECTS, LANES, World, play
from tests.support.virtual_loop import VirtualLoop

SEEDS = 1_000 if os.environ.get("LONG") else 40
AT_ONCE = 40
# Found by the first look after it was sent, by none and sent again, and given up.
WAYS = [(State.SIGNED, State.CONFIRMED), (State.SIGNED, State.SENT), (State.SENT, State.EXPIRED)]


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_rounds_that_overlap_make_each_effect_happen_once(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, rounds, ways = {}, Counter[str](), Counter[tuple[State, State]]()
    deaths = rotations = 0
    for seed in range(first, first + AT_ONCE):
        world = played(seed, monkeypatch)
        if world.wrong or is_not_once(world) or world.table.is_open():
            wrong[seed] = (world.wrong[:3], {n: count for n, count in world.happened().items() if count != 1})
        rounds |= world.rounds
        ways += world.table.ways
        deaths, rotations = deaths + world.deaths, rotations + world.rotations

    assert wrong == {}
    assert rounds == {lane.name: lane.rounds_max for lane in LANES}  # they did overlap, as far as they may
    assert min(deaths, rotations, *(ways[way] for way in WAYS)) > AT_ONCE / 2


@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_a_submitter_that_gives_up_some_blocks_too_early_is_caught(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the test above would say nothing about the heights at which bytes expire."""

    def early(now: Submission, learnt: Learnt) -> Submission:
        return step(now, Absent(learnt.height_final + blocks) if isinstance(learnt, Absent) else learnt)

    monkeypatch.setattr("actors.chain_submitter.step", early)

    assert any(played(seed, monkeypatch).wrong for seed in range(AT_ONCE))


def played(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    def at_loop(loop: VirtualLoop) -> None:
        monkeypatch.setattr("actors.chain_submitter.monotonic", loop.time)

    return play(seed, at_loop)


def is_not_once(world: World) -> bool:
    return world.happened() != dict.fromkeys(range(EFFECTS), 1)
