"""Effects made transactions: looked at, packed by size and locks, signed, simulated, sent, and asked for.

What the submitter (actors/chain_submitter.py) asks of a chain, with strings and bytes alone between them. Keys are used
here and do not leave.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Finalized
from solana.rpc.core import RPCException
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from solders.transaction_status import TransactionConfirmationStatus, TransactionStatus

from chain.client.deployment import Deployment, read_accounts
from chain.client.effects import Effects
from chain.client.judgements import Done, Plan
from chain.client.rpc import EndpointState, RpcPool
from chain.client.transactions import (
    ACCOUNT_LOCKS_MAX,
    TRANSACTION_BYTES_MAX,
    UNITS_MAX,
    Blockhash,
    Budget,
    Signed,
    TooLarge,
    error_name,
    latest_blockhash,
    send,
    sign,
    simulate,
)
from chain.client.wallets import Role, Signer
from chain.errors import error_json
from engine.submission import (
    TOGETHER_MAX,
    ChainDown,
    Declined,
    Effect,
    Found,
    Governance,
    Holdings,
    Level,
    NotNow,
    Packed,
    Refused,
    Status,
    Statuses,
)

BUDGET_BYTES: Final = 52  # of the two instructions that every transaction of ours begins with
SIGNATURE_BYTES: Final = 64
SIMULATIONS_AT_ONCE: Final = 8
STATUSES_MAX: Final = 256  # what one request may ask for
# Not the effect's fault: another time it may do. "custom 1": the token program has too little to move.
EVERYBODY: Final = frozenset(  # whatever is in the transaction
    {"Paused", "BlockhashNotFound", "AccountNotFound", "InsufficientFundsForFee", "AlreadyProcessed", "AccountInUse"}
)
NOT_NOW: Final = frozenset({"custom 1", "MeterInactive", "UserInactive", "NotPaidIn"}) | EVERYBODY
# It may be there already: the next look tells.
THERE: Final = frozenset(
    {"AlreadyMinted", "AlreadyWithdrawn", "AlreadySettled", "UserExists", "VaultExists", "MeterExists"}
    | {"AlreadyPaused", "NotPaused"}
)


class ChainWriter:
    """Of one deployment. Methods raise ChainDown when nobody answers."""

    def __init__(self, pool: RpcPool, effects: Effects, signers: Mapping[Role, Signer], price: int = 0) -> None:
        self._pool, self._effects, self._signers, self._price = pool, effects, signers, price
        self._programs = effects.programs

    def __repr__(self) -> str:
        return f"ChainWriter({self._pool!r})"

    async def prepare(self, heirs: Collection[str] = ()) -> None:
        """Make the deployment ready; `heirs`: to whom we would hand governance over. Raises NotOurs, ChainDown."""
        await Deployment(self._pool, self._effects, self._signers).prepare(heirs)

    def endpoints(self) -> list[EndpointState]:
        return self._pool.states()

    def holdings(self, address: str) -> Holdings:
        """Where a participant's tokens are."""
        return self._effects.participant(address).holdings

    async def governance(self) -> Governance:
        """Who has the authority, and whether it has paused the chain."""
        found = (await read_accounts(self._pool, [self._effects.config]))[self._effects.config]
        if found is None:
            raise ChainDown("the governance program is not initialized")
        config = self._programs.governance.account(bytes(found.data), "Config")
        proposed = "" if config["proposed"] == Pubkey.default() else str(config["proposed"])
        ours = config["authority"] == self._signers[Role.GOVERNANCE].address
        return Governance(str(config["authority"]), proposed, ours=ours, paused=bool(config["paused"]))

    async def lamports(self) -> dict[str, int]:
        """What each role has for fees and rent."""
        found = await read_accounts(self._pool, [signer.address for signer in self._signers.values()])
        accounts = {role: found[signer.address] for role, signer in self._signers.items()}
        return {str(role): account.lamports if account else 0 for role, account in accounts.items()}

    async def plan(self, effects: Sequence[Effect]) -> tuple[dict[int, Found], list[Packed], list[Declined]]:
        """What is there already (by number), what is signed and would succeed, and what is not signed and why."""
        height, height_final = await self._heights()
        accounts = await read_accounts(self._pool, [key for one in effects for key in self._effects.wanted(one)])
        found: dict[int, Found] = {}
        plans: list[tuple[Effect, Plan]] = []
        declined: list[Declined] = []
        for effect in effects:
            match judged := self._effects.judge(effect, accounts):
                case Done():
                    found[effect.number] = Found(height, height_final)
                case Plan():
                    plans.append((effect, judged))
                case _:
                    declined.append(Declined((effect.number,), judged))
        if not plans:
            return found, [], declined
        blockhash = await latest_blockhash(self._pool)
        at_once = asyncio.Semaphore(SIMULATIONS_AT_ONCE)

        async def bounded(group: list[tuple[Effect, Plan]]) -> Packed | Declined:
            async with at_once:
                return await self._signed(group, blockhash)

        outcomes = await asyncio.gather(*(bounded(group) for group in self._packed(plans)))
        packed = [each for each in outcomes if isinstance(each, Packed)]
        return found, packed, [*declined, *(each for each in outcomes if isinstance(each, Declined))]

    async def look(self, effects: Sequence[Effect]) -> tuple[set[int], Found]:
        """Which of them are there (by number), and the heights at which that was so."""
        height, height_final = await self._heights()
        accounts = await read_accounts(self._pool, [key for one in effects for key in self._effects.wanted(one)])
        there = {one.number for one in effects if isinstance(self._effects.judge(one, accounts), Done)}
        return there, Found(height, height_final)

    async def send(self, raw: bytes) -> None:
        """Hand the bytes to an endpoint; what it answers says nothing about them."""
        try:
            await send(self._pool, Signed(raw, "", 0))
        except RPCException as error:
            raise ChainDown(str(error)[:200]) from error

    async def statuses(self, sent: Sequence[tuple[str, bytes]]) -> Statuses:
        """Of signatures with their bytes, at most STATUSES_MAX.

        One endpoint says how far it knows, and then what it found: whatever a block up to there has is found.
        """
        signatures = [Signature.from_string(signature) for signature, _ in sent]

        async def both(client: AsyncClient) -> tuple[int, list[TransactionStatus | None]]:
            height = (await client.get_block_height(Finalized)).value
            answer = await client.get_signature_statuses(signatures, search_transaction_history=True)
            return height, list(answer.value)

        height, found = await self._pool.ask(both)
        return Statuses(height, [self._status(one, raw) for one, (_, raw) in zip(found, sent, strict=True)])

    async def _heights(self) -> tuple[int, int]:
        async def both(client: AsyncClient) -> tuple[int, int]:
            return (await client.get_block_height()).value, (await client.get_block_height(Finalized)).value

        return await self._pool.ask(both)

    def _status(self, found: TransactionStatus | None, raw: bytes) -> Status | None:
        if found is None:
            return None
        level = _level(found.confirmation_status)
        if found.err is None:
            return Status(level, found.slot)
        name = error_name(error_json(found.err), VersionedTransaction.from_bytes(raw), self._programs).strip('"')
        return Status(level, found.slot, name, permanent=name not in NOT_NOW | THERE)

    async def _signed(self, group: list[tuple[Effect, Plan]], blockhash: Blockhash) -> Packed | Declined:
        numbers, together = tuple(effect.number for effect, _ in group), len(group)
        signers = [self._signers[role] for role in group[0][1].roles]
        plans = [plan for _, plan in group]
        # No two transactions of ours are equal, whatever they hold: equal ones would be one.
        units = min(sum(plan.units for plan in plans) + numbers[0] % 1_000, UNITS_MAX)
        try:
            signed = sign(_instructions(plans), signers, blockhash, Budget(units, self._price))
            outcome = await simulate(self._pool, signed, self._programs)
        except (TooLarge, ValueError, RPCException) as error:
            return Declined(numbers, Refused(str(error)[:300], permanent=True, together=together))
        why = outcome.error.strip('"')  # the runtime's are JSON
        if not why:
            return Packed(numbers, signed.raw, signed.signature, signed.last_height)
        if why in EVERYBODY or (why in NOT_NOW and together == 1):
            return Declined(numbers, NotNow(why))
        return Declined(numbers, Refused(why, why not in THERE | NOT_NOW, together))

    def _packed(self, plans: list[tuple[Effect, Plan]]) -> list[list[tuple[Effect, Plan]]]:
        """Groups that fit one transaction each, in order; what shares one has the same signers."""
        groups: list[list[tuple[Effect, Plan]]] = []
        open_groups: dict[tuple[Role, ...], list[tuple[Effect, Plan]]] = {}
        for each in plans:
            roles = each[1].roles
            group = open_groups.get(roles)
            if group is None or not self._fits([*group, each]):
                group = open_groups[roles] = []
                groups.append(group)
            group.append(each)
        return groups

    def _fits(self, group: list[tuple[Effect, Plan]]) -> bool:
        plans = [plan for _, plan in group]
        if len(group) > min(TOGETHER_MAX, *(effect.submission.together_max for effect, _ in group)):
            return False
        payer: Pubkey = self._signers[plans[0].roles[0]].address
        message = MessageV0.try_compile(payer, _instructions(plans), [], Hash.default())
        size = 1 + SIGNATURE_BYTES * message.header.num_required_signatures + len(to_bytes_versioned(message))
        return (
            size + BUDGET_BYTES <= TRANSACTION_BYTES_MAX
            and len(message.account_keys) < ACCOUNT_LOCKS_MAX
            and sum(plan.units for plan in plans) < UNITS_MAX - 1_000
        )


def _instructions(plans: Sequence[Plan]) -> list[Instruction]:
    setup: dict[Any, Instruction] = {}
    for plan in plans:
        setup |= {address: each for address, each in plan.setup.items() if address not in setup}
    return [*setup.values(), *(each for plan in plans for each in plan.instructions)]


def _level(found: TransactionConfirmationStatus | None) -> Level:
    """Old nodes say nothing of what is rooted."""
    match found:
        case TransactionConfirmationStatus.Processed:
            return Level.PROCESSED
        case TransactionConfirmationStatus.Confirmed:
            return Level.CONFIRMED
    return Level.FINALIZED
