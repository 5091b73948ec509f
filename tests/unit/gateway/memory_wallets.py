"""The ports of wallets in memory, for the gateway's tests; what PostgreSQL promises is tested on PostgreSQL."""

from msgspec.structs import replace
from solders.keypair import Keypair

from engine.audit import Origin
from engine.records import AddressTaken, ChallengeGone, PlatformWalletKept, WalletRecord, WalletsFull


class MemoryWallets:
    """Wallets and vault in one."""

    def __init__(self) -> None:
        self.rows: dict[str, WalletRecord] = {}
        self.open: dict[tuple[int, str], tuple[str, int]] = {}  # (user, address) -> text, its end

    async def put_challenge(
        self, user_id: int, address: str, challenge: str, now_us: int, expires_us: int, open_max: int
    ) -> None:
        others = [
            key for key, (_, end) in self.open.items() if key[0] == user_id and key[1] != address and end > now_us
        ]
        if len(others) >= open_max:
            raise WalletsFull
        self.open[user_id, address] = (challenge, expires_us)

    async def challenge(self, user_id: int, address: str, now_us: int) -> str | None:
        text, end = self.open.get((user_id, address), ("", 0))
        return text if end > now_us else None

    async def link(
        self, user_id: int, address: str, challenge: str, now_us: int, wallets_max: int, origin: Origin
    ) -> WalletRecord:
        if await self.challenge(user_id, address, now_us) != challenge:
            raise ChallengeGone
        self._check_room(user_id, wallets_max)
        del self.open[user_id, address]
        if address in self.rows:
            raise AddressTaken
        return self._add(address, user_id, "linked", now_us)

    async def make(self, user_id: int, now_us: int, wallets_max: int, origin: Origin) -> WalletRecord:
        if any(row.kind == "platform" for row in await self.wallets(user_id)):
            raise PlatformWalletKept
        self._check_room(user_id, wallets_max)
        return self._add(str(Keypair().pubkey()), user_id, "platform", now_us)

    async def wallets(self, user_id: int) -> list[WalletRecord]:
        return [row for row in self.rows.values() if row.user_id == user_id]

    async def make_primary(self, user_id: int, address: str, origin: Origin) -> WalletRecord | None:
        if address not in {row.address for row in await self.wallets(user_id)}:
            return None
        for row in await self.wallets(user_id):
            self.rows[row.address] = replace(row, primary=row.address == address)
        return self.rows[address]

    async def remove(self, user_id: int, address: str, origin: Origin) -> bool:
        row = self.rows.get(address)
        if row is None or row.user_id != user_id:
            return False
        if row.kind == "platform":
            raise PlatformWalletKept
        del self.rows[address]
        return True

    def _check_room(self, user_id: int, wallets_max: int) -> None:
        if sum(row.user_id == user_id for row in self.rows.values()) >= wallets_max:
            raise WalletsFull

    def _add(self, address: str, user_id: int, kind: str, now_us: int) -> WalletRecord:
        first = not any(row.user_id == user_id for row in self.rows.values())
        self.rows[address] = WalletRecord(address, user_id, kind, first, now_us)
        return self.rows[address]
