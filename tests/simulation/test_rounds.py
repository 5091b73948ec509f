"""Rounds of a lane that overlap, a submitter that dies between any two of their steps, and still each effect once.

Nothing on this chain guards an effect: what keeps it single is that a claim is one round's, that bytes are stored
before they are sent, and that new ones are signed only after the old ones can land no more. `LONG=1`: 1,000 seeds.

Seen to fail for: two claims of a lane at once, bytes that are sent before they are stored, new ones signed long before
the old ones are out of date, keys that change while a round is under way, lanes that go on while keys shall change.
Not for ones signed a few blocks too early, which needs more luck: tests/simulation/test_submission.py finds that.
"""

import os
from collections import Counter

import pytest

from tests.simulation.rounds_world import EFFECTS, LANES, play
from tests.support.virtual_loop import VirtualLoop

SEEDS = 1_000 if os.environ.get("LONG") else 40
AT_ONCE = 40


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_rounds_that_overlap_make_each_effect_happen_once(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_loop(loop: VirtualLoop) -> None:
        monkeypatch.setattr("actors.chain_submitter.monotonic", loop.time)

    wrong, rounds = {}, Counter[str]()
    deaths = rotations = 0
    for seed in range(first, first + AT_ONCE):
        world = play(seed, at_loop)
        if world.wrong or world.happened() != dict.fromkeys(range(EFFECTS), 1) or world.table.is_open():
            wrong[seed] = (world.wrong[:3], {n: count for n, count in world.happened().items() if count != 1})
        rounds |= world.rounds
        deaths, rotations = deaths + world.deaths, rotations + world.rotations

    assert wrong == {}
    assert rounds == {lane.name: lane.rounds_max for lane in LANES}  # they did overlap, as far as they may
    assert min(deaths, rotations) > AT_ONCE / 2
