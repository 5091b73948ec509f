"""A settlement that the engine has split, told to the program on the virtual machine: its parts fit, and vaults agree.

Seen to fail for: parts that pay out first, one part left out.
"""

from random import Random

import pytest
from solders.hash import Hash
from solders.instruction import Instruction

from chain.client.transactions import Blockhash, Budget, TooLarge, sign
from chain.client.wallets import Role, Signer
from engine.settlement.netting import Delta, Part, Settlement, settle
from tests.support.chain import TestChain, Vault
from tests.support.settlement import SALT, naive_deltas, trade

ACCOUNTS_THAT_FIT = 6  # config/default.toml: settlement_part_accounts
START = (100_000, 10**9)


def instruction(
    chain: TestChain, settlement: Settlement, place: int, part: Part, vaults: dict[str, Vault]
) -> Instruction:
    arguments = {
        "id": settlement.settlement_id,
        "root": settlement.root,
        "count": len(settlement.leaves),
        "part": place,
        "parts": len(settlement.parts),
        "deltas": [{"energy": one.energy_wh, "currency": one.currency_micro} for one in part.deltas],
    }
    following = [meta for one in part.deltas for meta in vaults[one.account].metas()]
    return chain.build("trading", "settle_batch", arguments, following, settler="settler")


def made(part_accounts: int) -> tuple[TestChain, Settlement, dict[str, Vault], list[Delta]]:
    random = Random(part_accounts)
    trades = [
        trade(number, *random.sample(range(1, 12), 2), charges_micro=random.randrange(9), buyer_fee=random.randrange(9))
        for number in range(1, 40)
    ]
    chain = TestChain().ready()
    changes = naive_deltas(trades)
    vaults = {one.account: chain.vault(one.account, *START) for one in changes}
    return chain, settle(trades, 1, SALT, part_accounts), vaults, changes


@pytest.mark.parametrize("part_accounts", [4, 6])
def test_the_parts_move_what_was_netted_and_complete_the_settlement(part_accounts: int) -> None:
    chain, settlement, vaults, changes = made(part_accounts)

    for place, part in enumerate(settlement.parts):
        outcome = chain.send(instruction(chain, settlement, place, part, vaults), "settler")
        assert outcome.error == "", outcome.logs

    assert outcome.events[-1].fields["complete"]
    assert {account: vault.holds() for account, vault in vaults.items()} == {
        one.account: (START[0] + one.energy_wh, START[1] + one.currency_micro) for one in changes
    }


def test_parts_that_pay_in_go_in_any_order_and_those_that_pay_out_not_before_them() -> None:
    chain, settlement, vaults, _ = made(4)
    first = [(place, part) for place, part in enumerate(settlement.parts) if part.after == 0]
    then = [(place, part) for place, part in enumerate(settlement.parts) if part.after]

    assert chain.send(instruction(chain, settlement, *then[0], vaults), "settler").error == "NotPaidIn"
    for place, part in [*first[::-1], *then[::-1]]:
        assert chain.send(instruction(chain, settlement, place, part, vaults), "settler").error == ""


def test_as_many_accounts_as_the_setting_allows_fit_a_transaction_without_a_lookup_table() -> None:
    chain, _, vaults, _ = made(18)
    settler = Signer(Role.SETTLER, chain.keys["settler"])
    blockhash = Blockhash(Hash.default(), 1)

    def signed(accounts: int) -> int:
        deltas = tuple(Delta(account, -1, -1) for account in list(vaults)[:accounts])
        settlement = Settlement(1, bytes(16), bytes(32), [b""], [Part(0, deltas)], 1, 1)
        one = instruction(chain, settlement, 0, settlement.parts[0], vaults)
        return len(sign([one], [settler], blockhash, Budget(400_000, 1)).raw)

    assert signed(ACCOUNTS_THAT_FIT) <= 1_232
    with pytest.raises(TooLarge):
        signed(ACCOUNTS_THAT_FIT + 1)
