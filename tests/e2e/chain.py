"""The local chain of a running exchange, as a stranger reaches it: by its address alone."""

import base64
import re
from typing import Any

import httpx
from solders.hash import Hash
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chain.client.events import events
from chain.client.programs import reference_programs
from chain.client.transactions import Blockhash, Budget, sign
from chain.client.wallets import Signer
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS

PROGRAMS = reference_programs()
NOBODY = Pubkey.default()


class Chain:
    def __init__(self, installation: Installation) -> None:
        found = re.search(r"Local Solana\s+(http://\S+)", installation.output)
        assert found is not None, installation.output
        self.url = found[1]

    def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        answer = httpx.post(self.url, json=body, timeout=HUNG_SECONDS).json()
        assert "error" not in answer, answer
        return answer["result"]

    def tokens(self, account: Pubkey) -> int:
        found = self.call("getAccountInfo", str(account), {"encoding": "jsonParsed"})["value"]
        return int(self.call("getTokenAccountBalance", str(account))["value"]["amount"]) if found else 0

    def account(self, program: str, kind: str, address: Pubkey) -> dict[str, Any]:
        data = self.call("getAccountInfo", str(address), {"encoding": "base64"})["value"]["data"][0]
        return dict(getattr(PROGRAMS, program).account(base64.b64decode(data), kind))

    def mints(self) -> tuple[Pubkey, Pubkey]:
        market = Pubkey.find_program_address([b"market"], PROGRAMS.trading.id)[0]
        state = self.account("trading", "Market", market)
        return state["energy_mint"], state["currency_mint"]

    def settlement(self, settlement_id: str) -> dict[str, Any]:
        given = {"id": bytes.fromhex(settlement_id)}
        address = PROGRAMS.trading.address("settle_batch", "settlement", given, {"settler": NOBODY})
        return self.account("trading", "Settlement", address)

    def round(self, feed: str, number: int) -> dict[str, Any]:
        given = {"feed_id": feed.encode().ljust(16, b"\0"), "number": number}
        return self.account("oracle", "Round", PROGRAMS.oracle.address("publish", "round", given, {}))

    def has(self, signature: str) -> bool:
        """In a block that stays, and without an error."""
        found = self.call("getSignatureStatuses", [signature])["value"][0]
        return bool(found) and found["err"] is None and found["confirmationStatus"] == "finalized"

    def events(self, signature: str, name: str) -> list[dict[str, Any]]:
        """Of that name, which the transaction has made."""
        options = {"encoding": "json", "maxSupportedTransactionVersion": 0}
        logs = self.call("getTransaction", signature, options)["meta"]["logMessages"]
        return [dict(each.event.fields) for each in events(PROGRAMS, logs) if each.event.name == name]

    def holding(self, participant: str, asset: str) -> Pubkey:
        """Where a participant's vault has its energy or its currency."""
        energy_mint, currency_mint = self.mints()
        given = {"participant": Pubkey.from_string(participant), "payer": NOBODY}
        given |= {"energy_mint": energy_mint, "currency_mint": currency_mint}
        return PROGRAMS.trading.address("create_vault", asset, {}, given)

    def land(self, signer: Signer, *instructions: Instruction) -> None:
        value = self.call("getLatestBlockhash")["value"]
        blockhash = Blockhash(Hash.from_string(value["blockhash"]), value["lastValidBlockHeight"])
        signed = sign(instructions, [signer], blockhash, Budget())
        self.call("sendTransaction", base64.b64encode(signed.raw).decode(), {"encoding": "base64"})
