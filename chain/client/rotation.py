"""A role's key replaced by its next one: handed over on the chain in one transaction, final before the file is.

Rule: the chain says who counts. As long as it names the old key, the old file is the one that counts; once it names the
next one for good, the next file takes its place. A rotation that was cut short anywhere goes on where the chain is.
Nothing signed with the old key may be under way: whoever calls sees to that (actors/chain_submitter.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from solana.rpc.commitment import Finalized
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.token.state import Mint
from solders.transaction_status import TransactionConfirmationStatus
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import AuthorityType, SetAuthorityParams, set_authority

from chain.client.deployment import OPERATORS, own_currency_mint, read_accounts
from chain.client.effects import Effects
from chain.client.programs import Programs
from chain.client.rpc import RpcPool
from chain.client.transactions import Budget, latest_blockhash, send, sign
from chain.client.wallets import Authorities, Role, Signer
from engine.submission import ChainDown

UNITS: Final = 200_000
KEPT_LAMPORTS: Final = 1_000_000  # by a key that has paid: an account with less than its rent cannot be
FINAL_SECONDS_MAX: Final = 90.0
POLL_SECONDS: Final = 0.4

log = structlog.get_logger()


class NotHandedOver(ChainDown):
    """The chain does not name the next key: why. It can be tried again."""


class Rotation:
    """`currency_mint`: that of the settings; None: it is ours, and hangs on the first governance key."""

    def __init__(
        self, pool: RpcPool, programs: Programs, authorities: Authorities, currency_mint: Pubkey | None = None
    ) -> None:
        self._pool, self._programs, self._authorities = pool, programs, authorities
        self._mint = currency_mint
        self._refused: set[Role] = set()

    def __repr__(self) -> str:
        return f"Rotation({self._authorities!r})"

    def is_due(self) -> bool:
        return bool(set(self._authorities.proposed()) - self._refused)

    def signers(self) -> dict[Role, Signer]:
        """Those that count."""
        return {role: self._authorities.signer(role) for role in Role}

    def effects(self) -> Effects:
        """With the keys that count, and knowing those that did."""
        former = {role: self._authorities.former(role) for role in Role}
        addresses = {role: signer.address for role, signer in self.signers().items()}
        first = (*former[Role.GOVERNANCE], addresses[Role.GOVERNANCE])[0]
        return Effects(self._programs, addresses, self._mint or own_currency_mint(first), former)

    async def rotate(self, told: Callable[[str, str, str], Awaitable[None]], *, begun_only: bool) -> None:
        """Every role that has a next key, one after the other; `told` hears of each, with both addresses.

        `begun_only`: those that the chain has handed over already. A role that cannot be handed over, because the
        authority is elsewhere, is left as it is until the next start. Raises NotHandedOver, ChainDown.
        """
        for role in [each for each in self._authorities.proposed() if each not in self._refused]:
            old, new = self._authorities.signer(role), self._authorities.propose(role)
            if await self._named(role) != new.address:
                if begun_only:
                    continue
                authority = await self._named(Role.GOVERNANCE)
                if authority != self._authorities.signer(Role.GOVERNANCE).address:
                    log.error("chain.rotation_refused", role=role, why=f"the authority is {authority}, not ours")
                    self._refused.add(role)
                    continue
                await self._hand_over(role, old, new)
            await told(role, str(old.address), str(new.address))
            self._authorities.promote(role)

    async def _named(self, role: Role) -> Pubkey | None:
        """Whom governance's account names, for good; None: it is not there yet."""
        address = self._programs.governance.address("pause", "config", {}, {})
        found = (await self._pool.ask(lambda client: client.get_account_info(address, Finalized))).value
        if found is None:
            return None
        name = "authority" if role is Role.GOVERNANCE else role.value
        named: Pubkey = self._programs.governance.account(bytes(found.data), "Config")[name]
        return named

    async def _hand_over(self, role: Role, old: Signer, new: Signer) -> None:
        governance = self._authorities.signer(Role.GOVERNANCE)
        if role is Role.GOVERNANCE:
            calls, signers = await self._of_governance(old, new), [old, new]
        else:
            calls, signers = await self._of_operator(role, governance, old, new), [governance, old]
        await self._land(calls, signers)
        if await self._named(role) != new.address:
            raise NotHandedOver(f"the chain names another {role} after the hand-over")

    async def _of_governance(self, old: Signer, new: Signer) -> list[Instruction]:
        program = self._programs.governance
        return [
            program.instruction("propose_authority", {"proposed": new.address}, {"authority": old.address}),
            program.instruction("accept_authority", {}, {"proposed": new.address}),
            *await self._all_lamports(old, new, KEPT_LAMPORTS),
        ]

    async def _of_operator(self, role: Role, governance: Signer, old: Signer, new: Signer) -> list[Instruction]:
        number = OPERATORS.index(role)
        calls = [
            self._programs.governance.instruction(
                "set_operator", {"operator": new.address, "role": number}, {"authority": governance.address}
            )
        ]
        if role is Role.MINTER and await self._mints(old.address):
            mint, by = self.effects().currency_mint, AuthorityType.MINT_TOKENS
            calls.append(set_authority(SetAuthorityParams(TOKEN_PROGRAM_ID, mint, by, old.address, [], new.address)))
        paid = await self._all_lamports(old, new, 0)
        # whoever has nothing to give is no signer of a transfer, and must not be one of the transaction
        return [*calls, *paid] if paid else calls

    async def _mints(self, minter: Pubkey) -> bool:
        """May this key make the currency?"""
        address = self.effects().currency_mint
        found = (await read_accounts(self._pool, [address]))[address]
        return found is not None and Mint.from_bytes(bytes(found.data)).mint_authority == minter

    async def _all_lamports(self, old: Signer, new: Signer, kept: int) -> list[Instruction]:
        found = (await read_accounts(self._pool, [old.address]))[old.address]
        amount = found.lamports - kept if found is not None else 0
        if amount <= 0:
            return []
        return [transfer(TransferParams(from_pubkey=old.address, to_pubkey=new.address, lamports=amount))]

    async def _land(self, calls: list[Instruction], signers: list[Signer]) -> None:
        """Until it is final, the same bytes. Raises NotHandedOver when it is refused or too late."""
        needed = {meta.pubkey for call in calls for meta in call.accounts if meta.is_signer} | {signers[0].address}
        signed = sign(
            calls,
            [signer for signer in signers if signer.address in needed],
            await latest_blockhash(self._pool),
            Budget(UNITS),
        )
        signature = Signature.from_string(signed.signature)
        try:
            async with asyncio.timeout(FINAL_SECONDS_MAX):
                while True:
                    await send(self._pool, signed)
                    status = (await self._pool.ask(lambda client: client.get_signature_statuses([signature]))).value[0]
                    if status is not None and status.confirmation_status == TransactionConfirmationStatus.Finalized:
                        break
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise NotHandedOver("the hand-over was sent and is not final; it is looked for again") from None
        if status.err is not None:
            raise NotHandedOver(f"the hand-over was refused: {status.err}")
