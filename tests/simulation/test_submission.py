"""Whatever the network, the chain and the submitter suffer, an effect happens once: hundreds of seeds, `LONG=1` 10,000.

Two worlds. In one the chain refuses a second effect, and endpoints forget what landed. In the other nothing but the
rule of one signature at a time keeps the effect single, and endpoints tell the truth.

Seen to fail for: a new signature while the old one may land; expiry at the last height, or by a height that a fork may
take back; a failure believed before it is final, or taken for success; no look at the chain before signing; what is
confirmed, or was found a moment ago, called final.
"""

import os

import pytest

from engine.submission import (
    OPEN,
    REFUSALS_MAX,
    Absent,
    Found,
    HandedOver,
    Learnt,
    Level,
    Missing,
    NotNow,
    NotSo,
    Parked,
    Refused,
    Retried,
    Seen,
    Signed,
    State,
    Submission,
    Taken,
    delay_us,
    step,
)
from tests.simulation.chain_world import play

SEEDS = 10_000 if os.environ.get("LONG") else 300


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "one signature at a time"])
def test_an_effect_happens_exactly_once(guarded: bool) -> None:
    wrong = {}
    signed = 0
    for seed in range(SEEDS):
        chain, submitter = play(seed, guarded=guarded, forgetful=guarded)
        signed += submitter.signed
        if submitter.stored.state is not State.FINALIZED or len(chain.effects()) != 1:
            wrong[seed] = (submitter.stored, chain.effects())

    assert wrong == {}
    assert signed > SEEDS * 1.3  # otherwise nothing was tried


def of(*learnt: Learnt, begin: Submission | None = None) -> Submission:
    now = begin or Submission()
    for each in learnt:
        now = step(now, each)
    return now


SENT = (Taken(), Signed("s1", 100), HandedOver())


def test_the_usual_way() -> None:
    assert of(*SENT, Seen(Level.PROCESSED)).state is State.SENT
    assert of(*SENT, Seen(Level.CONFIRMED)).state is State.CONFIRMED
    assert of(*SENT, Seen(Level.CONFIRMED), Seen(Level.FINALIZED)).state is State.FINALIZED


def test_a_fork_sends_a_confirmed_one_back_with_the_same_bytes() -> None:
    now = of(*SENT, Seen(Level.CONFIRMED), Absent(99))

    assert (now.state, now.signature) == (State.SENT, "s1")


def test_the_last_height_itself_may_still_have_it() -> None:
    assert of(*SENT, Absent(100)).state is State.SENT
    assert of(*SENT, Absent(101)).state is State.EXPIRED


def test_an_error_counts_when_it_is_final() -> None:
    error = Seen(Level.CONFIRMED, "Paused")

    assert of(*SENT, error).state is State.SENT
    assert of(*SENT, Seen(Level.FINALIZED, "Paused")).state is State.FAILED
    assert of(*SENT, Seen(Level.FINALIZED, "WrongMint", permanent=True)).state is State.PARKED


def test_what_is_refused_together_is_tried_in_halves_and_parked_alone() -> None:
    now, rounds = Submission(), 0
    together = 32
    while now.state is not State.PARKED:
        now = of(Taken(), Refused("WrongMint", permanent=True, together=together), begin=now)
        together, rounds = now.together_max, rounds + 1

    assert rounds == 6  # 32, 16, 8, 4, 2, 1
    assert now.reason == "WrongMint"


def test_what_goes_wrong_for_ever_is_parked_and_an_admin_may_retry() -> None:
    now = Submission()
    for _ in range(REFUSALS_MAX):
        now = of(Taken(), Refused("the node is odd", permanent=False), begin=now)

    assert now.state is State.PARKED
    assert of(Retried(), begin=now).state is State.QUEUED


def test_waiting_for_something_else_is_no_failure() -> None:
    now = Submission()
    for _ in range(5 * REFUSALS_MAX):
        now = of(Taken(), NotNow("the chain is paused"), begin=now)

    assert (now.state, now.refusals) == (State.QUEUED, 0)


def test_an_effect_that_was_found_is_final_when_its_block_is() -> None:
    found = of(Taken(), Found(50, 20))

    assert of(Found(60, 49), begin=found).state is State.CONFIRMED
    assert of(Found(60, 50), begin=found).state is State.FINALIZED
    assert of(Missing(), begin=found).state is State.QUEUED


@pytest.mark.parametrize("state", [state for state in OPEN if state not in (State.QUEUED, State.FAILED, State.EXPIRED)])
def test_an_admin_does_not_park_what_may_land(state: State) -> None:
    with pytest.raises(NotSo):
        step(Submission(state=state, signature="s1"), Parked("no"))


def test_delays_grow_and_have_an_end() -> None:
    delays = [delay_us(Submission(refusals=refusals), 0.99) for refusals in range(REFUSALS_MAX)]

    assert delays == sorted(delays)
    assert delays[-1] <= 60_000_000
