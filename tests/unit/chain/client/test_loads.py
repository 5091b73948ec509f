"""What is counted is what a compiled transaction takes, to the byte and the account.

Seen to fail for: an address counted twice, a setup that is there already counted again, a length of two bytes counted
as one, a second signature forgotten.
"""

from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey

from chain.client.judgements import Plan
from chain.client.loads import SIGNATURE_BYTES, begun_by, joined
from chain.client.transactions import locks_of
from chain.client.wallets import Role
from engine.submission import Effect, Submission

KEYS = [Pubkey(bytes([number]) * 32) for number in range(1, 30)]
PAYER = KEYS[0]

keys = st.sampled_from(KEYS)
calls = st.builds(
    lambda program, data, metas: Instruction(program, data, metas),
    keys,
    st.integers(0, 200).map(bytes),
    st.lists(st.builds(AccountMeta, keys, st.booleans(), st.booleans()), max_size=140),
)
plans = st.builds(
    lambda units, instructions, setup: Plan((Role.MINTER,), units, tuple(instructions), setup),
    st.integers(0, 10_000),
    st.lists(calls, min_size=1, max_size=3),
    st.dictionaries(keys, calls, max_size=2),
)


@given(st.lists(plans, min_size=1, max_size=4))
def test_what_is_counted_is_what_it_takes(together: list[Plan]) -> None:
    setup: dict[Pubkey, Instruction] = {}
    load = begun_by(PAYER)
    for number, plan in enumerate(together):
        load = joined(load, Effect(number=number, kind="k", key="k", lane="mint", payload={}), plan)
        setup = {**plan.setup, **setup}

    compiled = [*setup.values(), *(call for plan in together for call in plan.instructions)]
    message = MessageV0.try_compile(PAYER, compiled, [], Hash.default())
    signatures = message.header.num_required_signatures
    assert load.bytes == 1 + SIGNATURE_BYTES * signatures + len(to_bytes_versioned(message))
    assert len(load.keys) == locks_of(message)
    assert (load.together, load.units) == (len(together), sum(plan.units for plan in together))


def test_the_smallest_bound_of_all_counts() -> None:
    load = begun_by(PAYER)
    for most in (32, 4, 16):
        submission = Submission(together_max=most)
        effect = Effect(number=1, kind="k", key="k", lane="mint", payload={}, submission=submission)
        load = joined(load, effect, Plan((Role.MINTER,), 0, ()))

    assert load.together_max == 4
