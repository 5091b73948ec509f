"""What each kind of effect is on the chain: an account that can come into being once, and the instructions for it.

Rule: what an effect does and what guards it are in one transaction, so neither is without the other. `judge` reads
accounts that somebody has fetched and decides; it sends nothing and keeps nothing.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final, TypeAlias

from construct import ConstructError
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import AllocateWithSeedParams, TransferParams, allocate_with_seed, transfer
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    MintToParams,
    create_idempotent_associated_token_account,
    get_associated_token_address,
    mint_to,
)

from chain.client.judgements import UNITS_OF_CALL, Accounts, Done, Judgement, Participant, Plan
from chain.client.programs import CannotDecode, CannotEncode, Program, Programs
from chain.client.publishing import Parts, Rounds, house_address, tokens
from chain.client.wallets import Role
from engine.settlement.netting import FEES, GRID
from engine.submission import SETTLE, Effect, NotNow, Refused
from engine.units import SECOND_US

ENERGY, CURRENCY = 0, 1  # as the trading program numbers assets
RENT_OF_A_BYTE: Final = 897_840  # lamports: (128 + 1) bytes for two years
UNITS: Final = {"user_registered": 160_000, "energy_generated": 90_000, "deposit_issued": 120_000}
NOBODYS: Final = {"governance", SETTLE, "oracle"}  # kinds that are no person's
PARTICIPANTS_KEPT_MAX: Final = 10_000  # whose addresses were computed
RECORDS_KEPT_MAX: Final = 2_000  # of generation: more than all rounds at once have
# What a damaged payload makes of our arithmetic, and of two libraries that encode it.
UNCLEAR: Final = (KeyError, ValueError, TypeError, OverflowError, ConstructError)


class Effects:
    """Of one deployment. `signers` are the addresses of its roles, `former` those of keys that counted before."""

    def __init__(
        self,
        programs: Programs,
        signers: Mapping[Role, Pubkey],
        currency_mint: Pubkey,
        former: Mapping[Role, Sequence[Pubkey]] | None = None,
    ) -> None:
        self.programs = programs
        self.signers = signers
        before = former or {}
        self._minters = (signers[Role.MINTER], *before.get(Role.MINTER, ()))
        self.currency_mint = currency_mint
        self.energy_mint = programs.energy_token.address("initialize", "mint", {}, {})
        self.config = programs.governance.address("pause", "config", {}, {})
        settlers = (signers[Role.SETTLER], *before.get(Role.SETTLER, ()))
        self._retirements = [get_associated_token_address(settler, self.energy_mint) for settler in settlers]
        self.retirement = self._retirements[0]
        self.participant = lru_cache(PARTICIPANTS_KEPT_MAX)(self._participant)
        # Asked for when it is looked at, and again when it is made.
        self._record = lru_cache(RECORDS_KEPT_MAX)(self._record_of)
        self._meter_of = lru_cache(PARTICIPANTS_KEPT_MAX)(self._meter_of_hash)
        parts, rounds = Parts(self), Rounds(self)
        self._kinds: dict[str, tuple[_Wanted, _Judge]] = {
            "user_registered": (self._user_wants, self._user),
            "meter_registered": (self._meter_wants, self._meter),
            "energy_generated": (self._generation_wants, self._generation),
            "energy_retired": (self._burn_wants, self._burn),
            "energy_revoked": (self._burn_wants, self._burn),
            "deposit_issued": (self._issue_wants, self._issue),
            "withdrawal": (self._withdrawal_wants, self._withdrawal),
            "governance": (lambda _: [], self._govern),
            SETTLE: (parts.wants, parts.judge),
            "oracle": (rounds.wants, rounds.judge),
        }

    @cached_property
    def common(self) -> tuple[Pubkey, ...]:
        """Accounts that most transactions name, whosever they are."""
        trading, token, nobody = self.programs.trading, self.programs.energy_token, Pubkey.default()
        pools = [trading.address("initialize", name, {}, {}) for name in ("market", "energy_pool", "currency_pool")]
        given = {"meter": nobody, "destination": nobody, "minter": nobody}
        configs = [
            token.address("mint_generation", name, {"window": 0}, given) for name in ("mint_config", "mint_authority")
        ]
        house = [
            key for name in (FEES, GRID) for one in (self.house(name),) for key in (one.vault, one.energy, one.currency)
        ]
        fixed = [self.config, self.energy_mint, self.currency_mint, self.retirement, TOKEN_PROGRAM_ID, SYSTEM_PROGRAM]
        return (*fixed, *pools, *configs, *house)

    def house(self, name: str) -> Participant:
        """The exchange's own account of that name."""
        return self.participant(str(house_address(self.programs.trading, name)))

    def _participant(self, address: str) -> Participant:
        """Raises ValueError for what is no address."""
        key = Pubkey.from_string(address)
        given = {"participant": key, "payer": key, "energy_mint": self.energy_mint, "currency_mint": self.currency_mint}
        trading, registry = self.programs.trading, self.programs.registry
        vault = trading.address("create_vault", "vault", {}, given)
        energy = trading.address("create_vault", "energy", {}, given)
        currency = trading.address("create_vault", "currency", {}, given)
        user = registry.address("register_user", "user", {}, {"authority": key, "registrar": key})
        return Participant(key, user, vault, energy, currency)

    def wanted(self, effect: Effect) -> list[Pubkey]:
        """The accounts that decide about it; none for one whose payload nobody understands."""
        kind = self._kinds.get(effect.kind)
        if kind is None or (effect.kind not in NOBODYS and not effect.account):
            return []
        try:
            return [self.config, *kind[0](effect)]
        except UNCLEAR:
            return [self.config]

    def judge(self, effect: Effect, accounts: Accounts) -> Judgement:
        kind = self._kinds.get(effect.kind)
        if kind is None:
            return NotNow(f"nothing here knows the kind {effect.kind}")
        if effect.kind not in NOBODYS and not effect.account:
            return NotNow("its owner has no account on the chain yet")
        if effect.kind != "governance" and self._config(accounts)["paused"]:
            return NotNow("the chain is paused")
        try:
            return kind[1](effect, accounts)
        except (CannotDecode, CannotEncode, *UNCLEAR) as error:  # one that is damaged holds up no others
            return Refused(repr(error)[:300], permanent=True)

    # --- people and meters ---

    def _user_wants(self, effect: Effect) -> list[Pubkey]:
        person = self.participant(effect.account)
        return [person.user, person.vault]

    def _user(self, effect: Effect, accounts: Accounts) -> Judgement:
        """Registered, with a vault; somebody else may have made the vault, which anybody may."""
        person, registrar = self.participant(effect.account), self.signers[Role.REGISTRAR]
        user_id = effect.user_id.to_bytes(16, "big")
        calls = []
        if found := self.read(accounts, person.user, self.programs.registry, "User"):
            if found["user_id"] != user_id:
                return Refused("the address is another user's on the chain", permanent=True)
        else:
            given = {"authority": person.address, "registrar": registrar}
            calls.append(self.programs.registry.instruction("register_user", {"user_id": user_id}, given))
        if not self.read(accounts, person.vault, self.programs.trading, "Vault"):
            calls.append(self.programs.trading.instruction("create_vault", {}, self._of_vault(person, registrar)))
        return Plan((Role.REGISTRAR,), UNITS["user_registered"], tuple(calls)) if calls else Done()

    def _meter_wants(self, effect: Effect) -> list[Pubkey]:
        return [self.participant(effect.account).user, self._meter_address(effect.serial)]

    def _meter(self, effect: Effect, accounts: Accounts) -> Judgement:
        if self.read(accounts, self._meter_address(effect.serial), self.programs.registry, "Meter"):
            return Done()  # whosever it is by now: it was registered
        person = self.participant(effect.account)
        if not self.read(accounts, person.user, self.programs.registry, "User"):
            return NotNow("its owner is not registered yet")
        return Plan((Role.REGISTRAR,), UNITS_OF_CALL, (self._register_meter(_hashed(effect.serial), person.address),))

    # --- energy ---

    def _generation_wants(self, effect: Effect) -> list[Pubkey]:
        meter = self._meter_address(effect.serial)
        person = self.participant(effect.account)
        return [meter, person.energy, person.user, self._record(meter, _window(effect))]

    def _generation(self, effect: Effect, accounts: Accounts) -> Judgement:
        """Into the vault of who owned the meter then, even if the meter has changed hands since."""
        meter, person = self._meter_address(effect.serial), self.participant(effect.account)
        record = self.read(
            accounts, self._record(meter, _window(effect)), self.programs.energy_token, "GenerationRecord"
        )
        if record:
            return self.compare(record, amount=effect.payload["amount_wh"], destination=person.energy)
        registered = self.read(accounts, meter, self.programs.registry, "Meter")
        if not registered or accounts.get(person.energy) is None:
            return NotNow("the meter or its owner's vault is not there yet")
        minting = self._mint(meter, person, _window(effect), effect.payload["amount_wh"])
        if registered["owner"] == person.address:
            return Plan((Role.MINTER,), UNITS["energy_generated"], (minting,), lasting=(meter, person.energy))
        there = self._transfer_meter(meter, person.address)
        back = self._transfer_meter(meter, registered["owner"])
        return Plan(
            (Role.MINTER, Role.REGISTRAR), UNITS["energy_generated"] + 2 * UNITS_OF_CALL, (there, minting, back)
        )

    def _burn_wants(self, effect: Effect) -> list[Pubkey]:
        person = self.participant(effect.account)
        return [person.energy, self._withdrawal_address(_sixteen(effect))]

    def _burn(self, effect: Effect, accounts: Accounts) -> Judgement:
        """Out of the vault to an account of the settler's, and burnt there, at once; guarded by the withdrawal."""
        person, amount = self.participant(effect.account), int(effect.payload["amount_wh"])
        number, settler = _sixteen(effect), self.signers[Role.SETTLER]
        if done := self.read(accounts, self._withdrawal_address(number), self.programs.trading, "Withdrawal"):
            there = done["destination"] if done["destination"] in self._retirements else self.retirement
            return self.compare(done, amount=amount, destination=there, vault=person.vault)
        if tokens(accounts.get(person.energy)) < amount:
            return NotNow("the vault holds less than that yet")
        given = {"source": self.retirement, "owner": settler}
        reference = {"amount": amount, "reference": _hashed(f"{effect.kind}:{effect.key}")}
        burning = self.programs.energy_token.instruction("retire", reference, given)
        taking = self._withdraw(number, amount, ENERGY, person, self.retirement)
        return Plan((Role.SETTLER,), 2 * UNITS_OF_CALL, (taking, burning), lasting=(person.vault, person.energy))

    # --- money ---

    def _issue_wants(self, effect: Effect) -> list[Pubkey]:
        person, meter = self.participant(effect.account), self._faucet_meter(effect)
        guards = [self._record(meter, _number(effect))] if _is_energy(effect) else self._issue_guards(effect)
        return [person.user, person.energy, person.currency, meter, *guards]

    def _issue(self, effect: Effect, accounts: Accounts) -> Judgement:
        """What the faucet gave, as tokens, where the currency is ours to make; its energy is of a meter of its own."""
        person, amount = self.participant(effect.account), int(effect.payload["amount"])
        if accounts.get(person.currency) is None or accounts.get(person.user) is None:
            return NotNow("its owner has no vault yet")
        if not _is_energy(effect):
            return self._issue_currency(effect, accounts, person, amount)
        meter = self._faucet_meter(effect)
        record = self.read(
            accounts, self._record(meter, _number(effect)), self.programs.energy_token, "GenerationRecord"
        )
        if record:
            return self.compare(record, amount=amount, destination=person.energy)
        setup = {}
        if not self.read(accounts, meter, self.programs.registry, "Meter"):
            setup = {meter: self._register_meter(_faucet_hash(effect), person.address)}
        minting = self._mint(meter, person, _number(effect), amount)
        roles = (Role.MINTER, Role.REGISTRAR) if setup else (Role.MINTER,)
        units, lasting = UNITS["deposit_issued"], (meter, person.energy)
        return Plan(roles, units, (minting,), setup, setup_fails_twice=True, lasting=lasting)

    def _issue_currency(self, effect: Effect, accounts: Accounts, person: Participant, amount: int) -> Judgement:
        """The guard is an account that only its base can allocate, and that can be allocated once."""
        minter, guards = self.signers[Role.MINTER], self._issue_guards(effect)
        if any(made is not None and made.owner == self.programs.trading.id for made in map(accounts.get, guards)):
            return Done()
        guard = guards[0]
        rent = transfer(TransferParams(from_pubkey=minter, to_pubkey=guard, lamports=RENT_OF_A_BYTE))
        once = allocate_with_seed(
            AllocateWithSeedParams(
                address=guard, base=minter, seed=_seed(effect), space=1, owner=self.programs.trading.id
            )
        )
        minting = mint_to(MintToParams(TOKEN_PROGRAM_ID, self.currency_mint, person.currency, minter, amount))
        return Plan((Role.MINTER,), UNITS_OF_CALL, (rent, once, minting), lasting=(person.currency,))

    def _withdrawal_wants(self, effect: Effect) -> list[Pubkey]:
        person = self.participant(effect.account)
        return [self._withdrawal_address(_sixteen(effect)), person.energy, person.currency]

    def _withdrawal(self, effect: Effect, accounts: Accounts) -> Judgement:
        """From the vault to the wallet's own token account, which is made if it is not there."""
        person, amount = self.participant(effect.account), int(effect.payload["amount"])
        energy = _is_energy(effect)
        mint, holding = (self.energy_mint, person.energy) if energy else (self.currency_mint, person.currency)
        wallet, number = Pubkey.from_string(effect.payload["address"]), _sixteen(effect)
        destination = get_associated_token_address(wallet, mint)
        if done := self.read(accounts, self._withdrawal_address(number), self.programs.trading, "Withdrawal"):
            return self.compare(done, amount=amount, destination=destination, vault=person.vault)
        if tokens(accounts.get(holding)) < amount:
            return NotNow("the vault holds less than that yet")
        making = create_idempotent_associated_token_account(self.signers[Role.SETTLER], wallet, mint)
        moving = self._withdraw(number, amount, ENERGY if energy else CURRENCY, person, destination)
        lasting = (person.vault, holding)
        return Plan((Role.SETTLER,), 2 * UNITS_OF_CALL, (moving,), {destination: making}, lasting=lasting)

    # --- governance ---

    def _govern(self, effect: Effect, accounts: Accounts) -> Judgement:
        """The state that is wanted is the guard: what is so already is done."""
        config, wanted, own = self._config(accounts), effect.payload["action"], self.signers[Role.GOVERNANCE]
        program, given = self.programs.governance, {"authority": own}
        match wanted:
            case "pause" | "unpause":
                done, call = config["paused"] == (wanted == "pause"), program.instruction(wanted, {}, given)
            case "propose":
                proposed = Pubkey.from_string(effect.payload["address"])
                done = proposed in (config["proposed"], config["authority"])
                call = program.instruction("propose_authority", {"proposed": proposed}, given)
            case "accept":
                done, call = config["authority"] == own, program.instruction("accept_authority", {}, {"proposed": own})
                if not done and config["proposed"] != own:
                    return Refused(f"{config['authority']} has not proposed {own}", permanent=True)
            case _:
                return Refused(f"there is no {wanted}", permanent=True)
        if not done and wanted != "accept" and config["authority"] != own:
            return Refused(f"the authority is {config['authority']}, whose key is not here", permanent=True)
        return Done() if done else Plan((Role.GOVERNANCE,), UNITS_OF_CALL, (call,))

    # --- parts of the above ---

    def _config(self, accounts: Accounts) -> dict[str, Any]:
        found = self.read(accounts, self.config, self.programs.governance, "Config")
        if found is None:
            raise CannotDecode("the governance program is not initialized")
        return found

    def read(self, accounts: Accounts, address: Pubkey, program: Program, kind: str) -> dict[str, Any] | None:
        """None: it is not there, or somebody has sent lamports to where it will be. Raises CannotDecode."""
        found = accounts.get(address)
        if found is None or found.owner != program.id:
            return None
        return program.account(bytes(found.data), kind)

    def compare(self, record: Mapping[str, Any], **expected: Any) -> Judgement:
        """A guard that says something else belongs to another effect: success it is not."""
        other = [name for name, value in expected.items() if record[name] != value]
        return Refused(f"it was done with another {' and '.join(other)}", permanent=True) if other else Done()

    def _of_vault(self, person: Participant, payer: Pubkey) -> dict[str, Pubkey]:
        mints = {"energy_mint": self.energy_mint, "currency_mint": self.currency_mint}
        return {"participant": person.address, "payer": payer, **mints}

    def _meter_address(self, serial: str) -> Pubkey:
        return self._meter_of(_hashed(serial))

    def _meter_of_hash(self, serial_hash: bytes) -> Pubkey:
        nobody = {"authority": Pubkey.default(), "registrar": Pubkey.default()}
        return self.programs.registry.address("register_meter", "meter", {"serial_hash": serial_hash}, nobody)

    def _register_meter(self, serial_hash: bytes, owner: Pubkey) -> Instruction:
        given = {"authority": owner, "registrar": self.signers[Role.REGISTRAR]}
        return self.programs.registry.instruction("register_meter", {"serial_hash": serial_hash}, given)

    def _transfer_meter(self, meter: Pubkey, receiver: Pubkey) -> Instruction:
        given = {"meter": meter, "receiver_authority": receiver, "signer": self.signers[Role.REGISTRAR]}
        return self.programs.registry.instruction("transfer_meter", {}, given)

    def _record_of(self, meter: Pubkey, window: int) -> Pubkey:
        given = {"meter": meter, "destination": meter, "minter": meter}
        return self.programs.energy_token.address("mint_generation", "record", {"window": window}, given)

    def _mint(self, meter: Pubkey, person: Participant, window: int, amount: int) -> Instruction:
        given = {"meter": meter, "destination": person.energy, "minter": self.signers[Role.MINTER]}
        return self.programs.energy_token.instruction("mint_generation", {"window": window, "amount": amount}, given)

    def _withdrawal_address(self, number: bytes) -> Pubkey:
        nobody = Pubkey.default()
        given = {"holding": nobody, "destination": nobody, "participant": nobody, "settler": nobody}
        return self.programs.trading.address("withdraw", "withdrawal", {"id": number}, given)

    def _withdraw(self, number: bytes, amount: int, asset: int, person: Participant, to: Pubkey) -> Instruction:
        given = {
            "holding": person.energy if asset == ENERGY else person.currency,
            "destination": to,
            "participant": person.address,
            "settler": self.signers[Role.SETTLER],
        }
        return self.programs.trading.instruction("withdraw", {"id": number, "amount": amount, "asset": asset}, given)

    def _faucet_meter(self, effect: Effect) -> Pubkey:
        return self._meter_of(_faucet_hash(effect))

    def _issue_guards(self, effect: Effect) -> list[Pubkey]:
        """That of the minter, and those that a minter before may have made."""
        trading = self.programs.trading.id
        return [Pubkey.create_with_seed(minter, _seed(effect), trading) for minter in self._minters]


_Wanted: TypeAlias = Callable[[Effect], list[Pubkey]]
_Judge: TypeAlias = Callable[[Effect, Accounts], Judgement]


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sixteen(effect: Effect) -> bytes:
    """What a guard is called after, of 16 bytes."""
    return _hashed(f"{effect.kind}:{effect.key}")[:16]


def _seed(effect: Effect) -> str:
    return _hashed(f"{effect.kind}:{effect.key}").hex()[:32]


def _faucet_hash(effect: Effect) -> bytes:
    return _hashed(f"faucet:{effect.user_id}")


def _number(effect: Effect) -> int:
    return int(effect.payload["deposit_id"])


def _is_energy(effect: Effect) -> bool:
    return str(effect.payload["asset"]).startswith("energy:")


def _window(effect: Effect) -> int:
    """A window's start in seconds; of an adjustment, whose key has more parts, a number below zero of its own."""
    if effect.key.count(":") == 1:
        return int(effect.payload["window_us"]) // SECOND_US
    return -1 - (int.from_bytes(_hashed(effect.key)[:8], "big") >> 1)
