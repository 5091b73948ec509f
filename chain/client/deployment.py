"""Makes a deployment of the five programs ready, once: operators, registry, mints, pools, an account to burn from.

Each step looks whether it is done, and does it if not, so a start that was cut short goes on where it was. A deployment
that somebody else has initialized is refused: its authority or operators are not ours.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from solana.rpc.core import RPCException
from solders.account import Account
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.rpc.responses import GetMultipleAccountsResp
from solders.signature import Signature
from solders.system_program import CreateAccountWithSeedParams, create_account_with_seed
from solders.transaction_status import TransactionConfirmationStatus
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    InitializeMintParams,
    create_idempotent_associated_token_account,
    initialize_mint,
)

from chain.client.effects import Effects
from chain.client.programs import CannotDecode
from chain.client.rpc import RpcPool
from chain.client.transactions import Budget, latest_blockhash, send, sign
from chain.client.wallets import Role, Signer
from engine.settlement.netting import FEES, GRID
from engine.submission import ChainDown

CURRENCY_DECIMALS: Final = 6
CURRENCY_SEED: Final = "currency"
MINT_RENT: Final = 1_461_600  # lamports
UNITS: Final = 400_000
LAND_SECONDS_MAX: Final = 60.0
POLL_SECONDS: Final = 0.2
ADDRESSES_MAX: Final = 100  # that a node tells of at once
READING: Final = {"encoding": "base64", "commitment": "confirmed"}
OPERATORS: Final = (Role.MINTER, Role.SETTLER, Role.PUBLISHER, Role.REGISTRAR)


class NotOurs(Exception):
    """The deployment has other authorities or mints than ours: which."""


class NotReady(ChainDown):
    """Something of the deployment could not be made yet: what, and why."""


def own_currency_mint(governance: Pubkey) -> Pubkey:
    """Where the currency's mint is that we make if no other is given."""
    return Pubkey.create_with_seed(governance, CURRENCY_SEED, TOKEN_PROGRAM_ID)


async def read_accounts(pool: RpcPool, addresses: Sequence[Pubkey]) -> dict[Pubkey, Account | None]:
    """Each of them as it is now, confirmed. Raises ChainUnavailable."""
    unique = list(dict.fromkeys(addresses))
    parts = [unique[start : start + ADDRESSES_MAX] for start in range(0, len(unique), ADDRESSES_MAX)]
    questions = [([str(key) for key in part], READING) for part in parts]
    answers = await pool.ask_together("getMultipleAccounts", questions, GetMultipleAccountsResp)
    if refused := next((each for each in answers if isinstance(each, RPCException)), None):
        raise refused
    return {
        key: account
        for part, answer in zip(parts, answers, strict=True)
        for key, account in zip(part, answer.value, strict=True)
    }


class Deployment:
    def __init__(self, pool: RpcPool, effects: Effects, signers: Mapping[Role, Signer]) -> None:
        self._pool, self._effects, self._signers = pool, effects, signers
        self._programs = effects.programs

    def __repr__(self) -> str:
        return f"Deployment({self._pool!r})"

    async def prepare(self, heirs: Collection[str] = ()) -> None:
        """Until everything is there. Raises NotOurs; NotReady and ChainUnavailable, after which it can go on.

        `heirs`: addresses to whom we have proposed to hand the authority over.
        """
        programs, effects = self._programs, self._effects
        governance = self._signers[Role.GOVERNANCE].address
        operators = {role.value: self._signers[role].address for role in OPERATORS}
        await self._make(
            effects.config,
            "governance",
            programs.governance.instruction("initialize", operators, {"authority": governance}),
        )
        await self._check_operators(operators, heirs)
        authority = {"authority": governance}
        for program, account in (
            (programs.registry, "registry"),
            (programs.energy_token, "mint_config"),
            (programs.oracle, "oracle"),
        ):
            address = program.address("initialize", account, {}, authority)
            await self._make(address, program.name, program.instruction("initialize", {}, authority))
        await self._make_currency()
        mints = {"energy_mint": effects.energy_mint, "currency_mint": effects.currency_mint}
        market = programs.trading.address("initialize", "market", {}, {"authority": governance, **mints})
        await self._make(
            market, "trading", programs.trading.instruction("initialize", {}, {"authority": governance, **mints})
        )
        await self._check_mints(market)
        await self._make_house()
        retirement = create_idempotent_associated_token_account(
            governance, self._signers[Role.SETTLER].address, effects.energy_mint
        )
        await self._make(effects.retirement, "the account to burn from", retirement)

    async def _make_house(self) -> None:
        """The vaults of the exchange's own accounts."""
        governance, trading = self._signers[Role.GOVERNANCE].address, self._programs.trading
        mints = {"energy_mint": self._effects.energy_mint, "currency_mint": self._effects.currency_mint}
        for name in (FEES, GRID):
            own = self._effects.house(name)
            given = {"participant": own.address, "payer": governance, **mints}
            await self._make(own.vault, f"the vault of {name}", trading.instruction("create_vault", {}, given))

    async def _make_currency(self) -> None:
        mint, governance = self._effects.currency_mint, self._signers[Role.GOVERNANCE].address
        if mint != own_currency_mint(governance):
            return
        creating = create_account_with_seed(
            CreateAccountWithSeedParams(
                from_pubkey=governance,
                to_pubkey=mint,
                base=governance,
                seed=CURRENCY_SEED,
                lamports=MINT_RENT,
                space=MINT_LEN,
                owner=TOKEN_PROGRAM_ID,
            )
        )
        minter = self._signers[Role.MINTER].address
        becoming = initialize_mint(InitializeMintParams(CURRENCY_DECIMALS, TOKEN_PROGRAM_ID, mint, minter))
        await self._make(mint, "the currency's mint", creating, becoming)

    async def _check_operators(self, operators: Mapping[str, Pubkey], heirs: Collection[str]) -> None:
        found = (await read_accounts(self._pool, [self._effects.config]))[self._effects.config]
        if found is None:
            raise NotReady("governance was dropped by a fork")
        config = self._programs.governance.account(bytes(found.data), "Config")
        others = [name for name, key in operators.items() if config[name] != key]
        if config["authority"] != self._signers[Role.GOVERNANCE].address and str(config["authority"]) not in heirs:
            others = ["authority", *others]
        if others:
            raise NotOurs(f"the governance program names other keys than ours for {', '.join(others)}")

    async def _check_mints(self, market: Pubkey) -> None:
        found = (await read_accounts(self._pool, [market]))[market]
        if found is None:
            raise NotReady("trading was dropped by a fork")
        state = self._programs.trading.account(bytes(found.data), "Market")
        if (state["energy_mint"], state["currency_mint"]) != (self._effects.energy_mint, self._effects.currency_mint):
            raise NotOurs("the trading program has other mints than those of the settings")

    async def _make(self, address: Pubkey, name: str, *instructions: Instruction) -> None:
        """Unless it is there with an owner. Governance pays and signs."""
        found = (await read_accounts(self._pool, [address]))[address]
        if found is not None and found.data:
            return
        signed = sign(instructions, [self._signers[Role.GOVERNANCE]], await latest_blockhash(self._pool), Budget(UNITS))
        signature = Signature.from_string(signed.signature)
        try:
            async with asyncio.timeout(LAND_SECONDS_MAX):
                while True:
                    await send(self._pool, signed)
                    status = (await self._pool.ask(lambda client: client.get_signature_statuses([signature]))).value[0]
                    if status is not None and status.err is not None:
                        raise NotReady(f"{name}: {status.err}")
                    if status is not None and status.confirmation_status != TransactionConfirmationStatus.Processed:
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise NotReady(f"{name}: was sent and has not landed; do the keys have lamports?") from None
        except CannotDecode as error:
            raise NotReady(f"{name}: {error}") from error
