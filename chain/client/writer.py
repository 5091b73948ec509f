"""Effects made transactions: looked at, packed by size and locks, signed, simulated, sent, and asked for.

What the submitter (actors/chain_submitter.py) asks of a chain, with strings and bytes alone between them. Keys are used
here and do not leave.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Finalized
from solana.rpc.core import RPCException
from solders.address_lookup_table_account import AddressLookupTableAccount
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
from chain.client.loads import SIGNATURE_BYTES, Load, begun_by, joined
from chain.client.rotation import Rotation
from chain.client.rpc import EndpointState, RpcPool
from chain.client.tables import Tables
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
    locks_of,
    send_all,
    sign,
    simulate_all,
)
from chain.client.wallets import Role, Signer
from chain.errors import error_json
from engine.submission import (
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
STATUSES_MAX: Final = 256  # what one request may ask for
# Not the effect's fault: another time it may do. "custom 1": the token program has too little to move.
EVERYBODY: Final = frozenset(  # whatever is in the transaction
    {"Paused", "BlockhashNotFound", "AccountNotFound", "InsufficientFundsForFee", "AlreadyProcessed", "AccountInUse"}
    | {"AddressLookupTableNotFound", "InvalidAddressLookupTableIndex"}
)
NOT_NOW: Final = frozenset({"custom 1", "MeterInactive", "UserInactive", "NotPaidIn"}) | EVERYBODY
# It may be there already: the next look tells.
THERE: Final = frozenset(
    {"AlreadyMinted", "AlreadyWithdrawn", "AlreadySettled", "UserExists", "VaultExists", "MeterExists"}
    | {"AlreadyPaused", "NotPaused"}
)


_Group: TypeAlias = list[tuple[Effect, Plan]]  # what shares a transaction


class _Making(Struct, frozen=True):
    """Who makes an account that only one transaction can: an effect that was signed, and until when it can land."""

    number: int
    last_height: int


class ChainWriter:
    """Of one deployment. Methods raise ChainDown when nobody answers."""

    def __init__(
        self,
        pool: RpcPool,
        effects: Effects,
        signers: Mapping[Role, Signer],
        price: int = 0,
        rotation: Rotation | None = None,
        tables: Tables | None = None,
    ) -> None:
        """`rotation`: where the next keys of roles are looked for. `tables`: None for none."""
        self._tables = tables
        self._pool, self._effects, self._signers, self._price = pool, effects, signers, price
        self._programs, self._rotation = effects.programs, rotation
        self._making: dict[Pubkey, _Making] = {}  # of all rounds: the next may begin before it is there

    def __repr__(self) -> str:
        return f"ChainWriter({self._pool!r})"

    async def prepare(self, heirs: Collection[str] = ()) -> None:
        """Make the deployment ready; `heirs`: to whom we would hand governance over. Raises NotOurs, ChainDown."""
        await Deployment(self._pool, self._effects, self._signers).prepare(heirs)

    async def tend(self) -> None:
        """Look after lookup tables, if there shall be any. Raises ChainDown."""
        if self._tables is not None:
            await self._tables.tend(self._signers)

    def rotation_is_due(self) -> bool:
        return self._rotation is not None and self._rotation.is_due()

    async def rotate(self, told: Callable[[str, str, str], Awaitable[None]], *, begun_only: bool = False) -> None:
        """Hand each role over to its next key, while nothing that was signed is under way. Raises ChainDown.

        `told`: a role, its address before, and since; before the old key is put away. `begun_only`: those for which the
        chain names the next key already.
        """
        if self._rotation is not None and self._rotation.is_due():
            await self._rotation.rotate(told, begun_only=begun_only)
            self._effects, self._signers = self._rotation.effects(), self._rotation.signers()

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
        signers = self._signers  # as they are now: a rotation may replace them meanwhile
        found = await read_accounts(self._pool, [signer.address for signer in signers.values()])
        accounts = {role: found[signer.address] for role, signer in signers.items()}
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
        self._making = {key: one for key, one in self._making.items() if one.last_height >= height_final}
        groups, waiting = self._packed(plans, blockhash.last_height)
        unsigned = {number for group in groups for number in _numbers(group)}
        try:
            packed, refused = await self._signed(groups, blockhash)
            unsigned -= {number for each in packed for number in each.numbers}
        finally:
            self._making = {key: one for key, one in self._making.items() if one.number not in unsigned}
        return found, packed, [*declined, *waiting, *refused]

    async def look(self, effects: Sequence[Effect]) -> tuple[set[int], Found]:
        """Which of them are there (by number), and the heights at which that was so."""
        height, height_final = await self._heights()
        accounts = await read_accounts(self._pool, [key for one in effects for key in self._effects.wanted(one)])
        there = {one.number for one in effects if isinstance(self._effects.judge(one, accounts), Done)}
        return there, Found(height, height_final)

    async def send(self, raws: Sequence[bytes]) -> None:
        """Hand the bytes of each to an endpoint; what it answers says nothing about them."""
        await send_all(self._pool, raws)

    async def statuses(self, sent: Sequence[tuple[str, bytes]]) -> Statuses:
        """Of signatures with their bytes, none to STATUSES_MAX.

        One endpoint says how far it knows, and then what it found: whatever a block up to there has is found.
        """
        signatures = [Signature.from_string(signature) for signature, _ in sent]

        async def all_(client: AsyncClient) -> tuple[int, int, list[TransactionStatus | None]]:
            height, slot = (await client.get_block_height(Finalized)).value, (await client.get_slot(Finalized)).value
            if not signatures:
                return height, slot, []
            answer = await client.get_signature_statuses(signatures, search_transaction_history=True)
            return height, slot, list(answer.value)

        height, slot, found = await self._pool.ask(all_)
        return Statuses(height, slot, [self._status(one, raw) for one, (_, raw) in zip(found, sent, strict=True)])

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

    async def _signed(self, groups: list[_Group], blockhash: Blockhash) -> tuple[list[Packed], list[Declined]]:
        """Those that would succeed as things are, and why not for the others."""
        declined: list[Declined] = []
        made: list[tuple[_Group, Signed]] = []
        for group in groups:
            signers, plans = [self._signers[role] for role in group[0][1].roles], [plan for _, plan in group]
            # No two transactions of ours are equal, whatever they hold: equal ones would be one.
            units = min(sum(plan.units for plan in plans) + group[0][0].number % 1_000, UNITS_MAX)
            try:
                calls = _instructions(plans)
                budget = Budget(units, self._price)
                made.append((group, sign(calls, signers, blockhash, budget, self._tables_for(calls))))
            except (TooLarge, ValueError) as error:
                declined.append(_declined(group, str(error), permanent=True))
        packed: list[Packed] = []
        outcomes = await simulate_all(self._pool, [signed for _, signed in made], self._programs)
        for (group, signed), outcome in zip(made, outcomes, strict=True):
            if isinstance(outcome, RPCException):
                declined.append(_declined(group, str(outcome), permanent=True))
            elif not (why := outcome.error.strip('"')):  # the runtime's are JSON
                packed.append(Packed(_numbers(group), signed.raw, signed.signature, signed.last_height))
            elif why in EVERYBODY or (why in NOT_NOW and len(group) == 1):
                declined.append(Declined(_numbers(group), NotNow(why)))
            else:
                declined.append(_declined(group, why, permanent=why not in THERE | NOT_NOW))
        return packed, declined

    def _packed(self, plans: list[tuple[Effect, Plan]], last_height: int) -> tuple[list[_Group], list[Declined]]:
        """Groups that fit one transaction each, in order; what shares one has the same signers."""
        groups: list[_Group] = []
        waiting: list[Declined] = []
        open_groups: dict[tuple[Role, ...], tuple[_Group, Load]] = {}
        made_by: dict[Pubkey, int] = {}  # accounts that a group sets up, which no other group can; its id
        if self._tables is not None and plans:
            self._tables.want([*self._effects.common, *(key for _, plan in plans for key in plan.lasting)])
        for each in plans:
            effect, plan = each
            empty = begun_by(self._signers[plan.roles[0]].address)
            group, before = open_groups.get(plan.roles, ([], empty))
            load = joined(before, effect, plan)
            if group and not self._fits(load, group, each):
                group, load = [], joined(empty, effect, plan)
            if not group and self._tables is not None and not self._fits(load, group, each):
                waiting.append(Declined((effect.number,), NotNow("its accounts are in no lookup table yet")))
                continue
            alone = plan.setup if plan.setup_fails_twice else {}
            elsewhere = [account for account in alone if made_by.get(account) != id(group)]
            if any(self._is_made_by_another(account, effect) for account in elsewhere):
                waiting.append(Declined((effect.number,), NotNow("an account that it needs is being made")))
                continue
            made_by |= dict.fromkeys(elsewhere, id(group))
            self._making |= dict.fromkeys(elsewhere, _Making(effect.number, last_height))
            if not group:
                groups.append(group)
            group.append(each)
            open_groups[plan.roles] = group, load
        return groups, waiting

    def _is_made_by_another(self, account: Pubkey, effect: Effect) -> bool:
        """One that comes again has nothing under way any more."""
        making = self._making.get(account)
        return making is not None and making.number != effect.number

    def _fits(self, load: Load, group: _Group, each: tuple[Effect, Plan]) -> bool:
        """`load`: of the group with that one."""
        if load.together > load.together_max or load.units >= UNITS_MAX - 1_000:
            return False
        if load.bytes + BUDGET_BYTES <= TRANSACTION_BYTES_MAX and len(load.keys) < ACCOUNT_LOCKS_MAX:
            return True
        if self._tables is None:
            return False
        calls = _instructions([plan for _, plan in [*group, each]])
        payer: Pubkey = self._signers[each[1].roles[0]].address
        message = MessageV0.try_compile(payer, calls, self._tables_for(calls), Hash.default())
        size = 1 + SIGNATURE_BYTES * message.header.num_required_signatures + len(to_bytes_versioned(message))
        return size + BUDGET_BYTES <= TRANSACTION_BYTES_MAX and locks_of(message) < ACCOUNT_LOCKS_MAX

    def _tables_for(self, calls: Sequence[Instruction]) -> list[AddressLookupTableAccount]:
        return self._tables.for_(calls) if self._tables is not None else []


def _instructions(plans: Sequence[Plan]) -> list[Instruction]:
    setup: dict[Any, Instruction] = {}
    for plan in plans:
        setup |= {address: each for address, each in plan.setup.items() if address not in setup}
    return [*setup.values(), *(each for plan in plans for each in plan.instructions)]


def _numbers(group: _Group) -> tuple[int, ...]:
    return tuple(effect.number for effect, _ in group)


def _declined(group: _Group, why: str, *, permanent: bool) -> Declined:
    return Declined(_numbers(group), Refused(why[:300], permanent, len(group)))


def _level(found: TransactionConfirmationStatus | None) -> Level:
    """Old nodes say nothing of what is rooted."""
    match found:
        case TransactionConfirmationStatus.Processed:
            return Level.PROCESSED
        case TransactionConfirmationStatus.Confirmed:
            return Level.CONFIRMED
    return Level.FINALIZED
