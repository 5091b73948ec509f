"""Rounds of a lane that overlap, a submitter that dies between any two of their steps, and still each effect once.

Nothing on this chain guards an effect: what keeps it single is that a claim is one round's, that bytes are stored
before they are sent, and that new ones are signed only after the old ones can land no more. `LONG=1`: 1,000 seeds.
"""

import os
from collections import Counter

import pytest

from tests.simulation.rounds_world import EFFECTS, LANES, play
from tests.support.virtual_loop import VirtualLoop

SEEDS = 1_000 if os.environ.get("LONG") else 40


def test_rounds_that_overlap_make_each_effect_happen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_loop(loop: VirtualLoop) -> None:
        monkeypatch.setattr("actors.chain_submitter.monotonic", loop.time)

    wrong, rounds = {}, Counter[str]()
    deaths = rotations = 0
    for seed in range(SEEDS):
        world = play(seed, at_loop)
        if world.wrong or world.happened() != dict.fromkeys(range(EFFECTS), 1) or world.table.is_open():
            wrong[seed] = (world.wrong[:3], {n: count for n, count in world.happened().items() if count != 1})
        rounds |= world.rounds
        deaths, rotations = deaths + world.deaths, rotations + world.rotations

    assert wrong == {}
    assert rounds == {lane.name: lane.rounds_max for lane in LANES}  # they did overlap, as far as they may
    assert min(deaths, rotations) > SEEDS / 2
