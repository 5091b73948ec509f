"""JSON-RPC methods of Solana, as many as clients of an exchange use. Source: https://solana.com/docs/rpc.

Unknown methods, wrong parameters and refused transactions answer with the codes and words of a validator, because
clients branch on them. Clients send explicit nulls for options that they leave out.
"""

import base64
import struct
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from solders.account import Account
from solders.hash import Hash
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from chain.devnet import shapes, wire
from chain.devnet.faults import Faults
from chain.devnet.ledger import SLOTS_PER_EPOCH, Ledger, NotIncluded
from chain.devnet.store import Outcome
from chain.devnet.wire import VERSION, Options, RpcError
from chain.errors import error_json

SIGNATURES_MAX: Final = 256
ADDRESSES_MAX: Final = 100
HISTORY_MAX: Final = 1_000
DELAYED_MAX: Final = 10_000
AIRDROP_LAMPORTS_MAX: Final = 10**15


class Unanswered(Exception):
    """The request was done, and its sender shall never hear of it (a fault that a test asked for)."""


class Rpc:
    """Methods over one ledger. With `faults` the methods devnet_* are there too."""

    def __init__(self, ledger: Ledger, faults: Faults | None = None) -> None:
        self.ledger = ledger
        self.faults = faults
        self._delayed: dict[int, list[bytes]] = defaultdict(list)  # by the slot in which they arrive
        self._methods: dict[str, Callable[..., Any]] = {
            "getAccountInfo": self._account_info,
            "getBalance": lambda key, *_: self._now(self._lamports(key)),
            "getBlockHeight": lambda options=None: self.ledger.slot_at(wire.level(options)),
            "getBlockTime": self._block_time,
            "getEpochInfo": self._epoch_info,
            "getFeeForMessage": self._fee,
            "getFirstAvailableBlock": lambda: 0,
            "getGenesisHash": lambda: str(self.ledger.genesis),
            "getHealth": lambda: "ok",
            "getIdentity": lambda: {"identity": str(self.ledger.faucet.pubkey())},
            "getLatestBlockhash": self._latest_blockhash,
            "getMinimumBalanceForRentExemption": self._rent,
            "getMultipleAccounts": self._multiple_accounts,
            "getProgramAccounts": self._program_accounts,
            "getRecentPrioritizationFees": lambda *_: [{"slot": self.ledger.slot, "prioritizationFee": 0}],
            "getSignatureStatuses": self._signature_statuses,
            "getSignaturesForAddress": self._signatures_for_address,
            "getSlot": lambda options=None: self.ledger.slot_at(wire.level(options)),
            "getTokenAccountBalance": self._token_balance,
            "getTokenAccountsByOwner": self._token_accounts,
            "getTokenSupply": self._token_supply,
            "getTransaction": self._transaction,
            "getTransactionCount": lambda *_: self.ledger.store.count(),
            "getVersion": lambda: {"solana-core": VERSION, "feature-set": 0},
            "isBlockhashValid": lambda key, *_: self._now(self.ledger.is_recent(Hash.from_string(key))),
            "requestAirdrop": self._airdrop,
            "sendTransaction": self._send,
            "simulateTransaction": self._simulate,
        }
        if faults is not None:
            self._methods |= {
                "devnet_fault": lambda fault, count, value=0: faults.set(fault, count, value),
                "devnet_expire": lambda: self.tick(151),
                "devnet_tick": self.tick,
                "devnet_fork": lambda slots: [each["signature"] for each in self.ledger.fork(slots)],
            }

    def answer(self, request: Any) -> dict[str, Any]:
        """The response to one decoded request; raises only Unanswered."""
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return wire.failure(None, RpcError(-32600, "Invalid request"))
        number = request.get("id")
        method = self._methods.get(request["method"])
        parameters = request.get("params") or []
        try:
            if method is None:
                raise RpcError(-32601, "Method not found")
            if not isinstance(parameters, list):
                raise RpcError(-32602, "Invalid params: expected a list")
            return {"jsonrpc": "2.0", "result": method(*parameters), "id": number}
        except RpcError as error:
            return wire.failure(number, error)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as error:
            return wire.failure(number, RpcError(-32602, f"Invalid params: {error}"))

    def tick(self, slots: int = 1) -> None:
        """Time goes on, and what was delayed until now arrives."""
        self.ledger.tick(slots)
        for slot in sorted(each for each in self._delayed if each <= self.ledger.slot):
            for raw in self._delayed.pop(slot):
                self._arrive(raw)

    def _arrive(self, raw: bytes) -> None:
        """Without anybody who waits: a leader drops what it cannot include, in silence."""
        try:
            self.ledger.land(VersionedTransaction.from_bytes(raw), raw)
        except NotIncluded:
            return

    def _now(self, value: Any) -> dict[str, Any]:
        return {"context": {"apiVersion": VERSION, "slot": self.ledger.slot}, "value": value}

    # --- accounts ---

    def _read(self, key: str) -> Account | None:
        return self.ledger.account(Pubkey.from_string(key))

    def _lamports(self, key: str) -> int:
        found = self._read(key)
        return found.lamports if found else 0

    def _account_info(self, key: str, options: Options | None = None) -> Any:
        return self._now(wire.shown(self._read(key), options))

    def _multiple_accounts(self, keys: list[str], options: Options | None = None) -> Any:
        if len(keys) > ADDRESSES_MAX:
            raise RpcError(-32602, f"Too many inputs provided; max {ADDRESSES_MAX}")
        return self._now([wire.shown(self._read(key), options) for key in keys])

    def _program_accounts(self, key: str, options: Options | None = None) -> Any:
        found = [(each, self.ledger.account(each)) for each in self.ledger.store.owned_by(Pubkey.from_string(key))]
        filters = (options or {}).get("filters")
        shown = [
            {"pubkey": str(address), "account": wire.shown(account, options)}
            for address, account in found
            if account and wire.matches(bytes(account.data), filters)
        ]
        return self._now(shown) if (options or {}).get("withContext") else shown

    def _token_balance(self, key: str, _options: Options | None = None) -> Any:
        held = shapes.token(self._read(key))
        if held is None:
            raise RpcError(-32602, "Invalid param: could not find account")
        return self._now(shapes.amount(held[2], self._mint(held[0])[1]))

    def _token_supply(self, key: str, _options: Options | None = None) -> Any:
        supply, decimals = self._mint(Pubkey.from_string(key))
        return self._now(shapes.amount(supply, decimals))

    def _mint(self, address: Pubkey) -> tuple[int, int]:
        found = self.ledger.account(address)
        if found is None or found.owner not in shapes.TOKENS or len(found.data) < shapes.MINT_BYTES:
            raise RpcError(-32602, "Invalid param: not a Token mint")
        return struct.unpack_from("<QB", bytes(found.data), 36)

    def _token_accounts(self, key: str, wanted: Options, options: Options | None = None) -> Any:
        owner = Pubkey.from_string(key)
        programs = [Pubkey.from_string(wanted["programId"])] if wanted.get("programId") else shapes.TOKENS
        mint = Pubkey.from_string(wanted["mint"]) if wanted.get("mint") else None
        shown = []
        for address in [each for program in programs for each in self.ledger.store.owned_by(program)]:
            account = self.ledger.account(address)
            held = shapes.token(account)
            if held and held[1] == owner and mint in (None, held[0]):
                shown.append({"pubkey": str(address), "account": wire.shown(account, options)})
        return self._now(shown)

    def _rent(self, length: int, _options: Options | None = None) -> int:
        return self.ledger.vm.minimum_balance_for_rent_exemption(length)

    # --- the chain ---

    def _latest_blockhash(self, options: Options | None = None) -> Any:
        key, last = self.ledger.blockhash(wire.level(options))
        return self._now({"blockhash": str(key), "lastValidBlockHeight": last})

    def _block_time(self, slot: int) -> int:
        if not 0 <= slot <= self.ledger.slot:
            raise RpcError(-32004, f"Block not available for slot {slot}")
        return self.ledger.unix_seconds

    def _epoch_info(self, options: Options | None = None) -> Any:
        slot = self.ledger.slot_at(wire.level(options))
        return {
            "absoluteSlot": slot,
            "blockHeight": slot,
            "epoch": slot // SLOTS_PER_EPOCH,
            "slotIndex": slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": self.ledger.store.count(),
        }

    def _fee(self, message: str, _options: Options | None = None) -> Any:
        raw = base64.b64decode(message, validate=True)
        made = MessageV0.from_bytes(raw[1:]) if raw[0] & 0x80 else Message.from_bytes(raw)
        return self._now(shapes.FEE_LAMPORTS * made.header.num_required_signatures)

    # --- transactions ---

    def _send(self, text: str, options: Options | None = None) -> str:
        if self.faults is not None and self.faults.take("refuse") is not None:
            raise RpcError(-32005, "Node is behind by 152 slots", {"numSlotsBehind": 152})
        transaction, raw = wire.decoded(text, options)
        signature = str(transaction.signatures[0])
        if not (options or {}).get("skipPreflight"):
            self._preflight(transaction)
        if self._is_lost(raw):
            return signature
        try:
            self.ledger.land(transaction, raw)
        except NotIncluded:
            return signature  # the sender finds out by asking for its status
        if self.faults is not None:
            if self.faults.take("duplicate") is not None:
                self._arrive(raw)
            if self.faults.take("unanswered") is not None:
                raise Unanswered
        return signature

    def _is_lost(self, raw: bytes) -> bool:
        if self.faults is None:
            return False
        if self.faults.take("drop") is not None:
            return True
        slots = self.faults.take("delay")
        if slots is None:
            return False
        if sum(map(len, self._delayed.values())) < DELAYED_MAX:
            self._delayed[self.ledger.slot + int(slots)].append(raw)
        return True

    def _preflight(self, transaction: VersionedTransaction) -> None:
        try:
            outcome = self.ledger.simulate(transaction)
        except NotIncluded as error:
            raise wire.failed_simulation(error.error, error.logs) from error
        if isinstance(outcome, FailedTransactionMetadata):
            failed, meta = error_json(outcome.err()), outcome.meta()
            if failed == "SignatureFailure":
                raise wire.bad_signature()
            raise wire.failed_simulation(failed, meta.logs(), meta.compute_units_consumed(), shapes.returned(meta))

    def _simulate(self, text: str, options: Options | None = None) -> Any:
        asked = options or {}
        transaction, _ = wire.decoded(text, options)
        verified = bool(asked.get("sigVerify"))
        try:
            outcome = self.ledger.simulate(
                transaction, recent=not asked.get("replaceRecentBlockhash"), verified=verified
            )
        except NotIncluded as error:
            empty: Options = {"logs": [], "accounts": None, "unitsConsumed": 0, "returnData": None}
            return self._now({"err": error.error, **empty})
        meta = outcome.meta()
        failed = error_json(outcome.err()) if isinstance(outcome, FailedTransactionMetadata) else None
        if failed == "SignatureFailure":
            raise wire.bad_signature()
        accounts = None
        if wanted := asked.get("accounts"):
            after = {} if isinstance(outcome, FailedTransactionMetadata) else dict(outcome.post_accounts())
            found = [(Pubkey.from_string(key), self._read(key)) for key in wanted["addresses"]]
            accounts = [
                shapes.account(
                    Account.from_bytes(bytes(after[key])) if key in after else now, wanted.get("encoding") or "base64"
                )
                for key, now in found
            ]
        return self._now(
            {
                "err": failed,
                "logs": meta.logs(),
                "accounts": accounts,
                "unitsConsumed": meta.compute_units_consumed(),
                "returnData": shapes.returned(meta),
            }
        )

    def _airdrop(self, key: str, lamports: int, _options: Options | None = None) -> str:
        if not 0 < lamports <= AIRDROP_LAMPORTS_MAX:
            raise RpcError(-32602, f"Invalid params: between 1 and {AIRDROP_LAMPORTS_MAX} lamports")
        try:
            record = self.ledger.airdrop(Pubkey.from_string(key), lamports)
        except NotIncluded as error:
            raise RpcError(-32603, f"Internal error: {error.error}") from error
        return str(record["signature"])

    def _signature_statuses(self, signatures: list[str], _options: Options | None = None) -> Any:
        if len(signatures) > SIGNATURES_MAX:
            raise RpcError(-32602, f"Too many inputs provided; max {SIGNATURES_MAX}")
        return self._now([self._status(self.ledger.store.outcome(each)) for each in signatures])

    def _status(self, found: Outcome | None) -> Any:
        if found is None:
            return None
        level = self.ledger.level_of(found.slot)
        return {
            "slot": found.slot,
            "confirmations": None if level == "finalized" else self.ledger.slot - found.slot,
            "err": found.err,
            "status": shapes.status(found.err),
            "confirmationStatus": level,
        }

    def _transaction(self, signature: str, options: Options | str | None = None) -> Any:
        asked = {"encoding": options} if isinstance(options, str) else options or {}
        record = self.ledger.store.transaction(signature)
        if record is None or record["slot"] > self.ledger.slot_at(wire.level(asked)):
            return None
        if record["version"] == 0 and asked.get("maxSupportedTransactionVersion") is None:
            raise RpcError(
                -32015,
                "Transaction version (0) is not supported by the requesting client. Please try the request again with "
                'the following configuration parameter: "maxSupportedTransactionVersion": 0',
            )
        return shapes.transaction(record, asked.get("encoding") or "json")

    def _signatures_for_address(self, key: str, options: Options | None = None) -> Any:
        asked = options or {}
        limit = HISTORY_MAX if asked.get("limit") is None else asked["limit"]
        if not 0 < limit <= HISTORY_MAX:
            raise RpcError(-32602, f"Invalid limit; max {HISTORY_MAX}")
        slot = self.ledger.slot_at(wire.level(asked))
        address = str(Pubkey.from_string(key))
        found = self.ledger.store.mentioning(address, asked.get("before"), asked.get("until"), slot, limit)
        return [
            {
                "signature": each.signature,
                "slot": each.slot,
                "err": each.err,
                "memo": None,
                "blockTime": each.time,
                "confirmationStatus": self.ledger.level_of(each.slot),
            }
            for each in found
        ]
