"""What the local chain keeps in SQLite: accounts, transactions, what each changed, its clock. A kill loses nothing.

Every change of the chain is one transaction here, committed before anybody is answered. This is a file of the devnet's
own, not the exchange's database.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

Changes: TypeAlias = dict[Pubkey, tuple[Account | None, Account | None]]  # before, after
Record: TypeAlias = dict[str, Any]

TABLES: Final = """
    CREATE TABLE IF NOT EXISTS accounts (address BLOB PRIMARY KEY, owner BLOB NOT NULL, account BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS accounts_by_owner ON accounts (owner);
    CREATE TABLE IF NOT EXISTS transactions (
        number INTEGER PRIMARY KEY, signature TEXT NOT NULL UNIQUE, slot INTEGER NOT NULL, record BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS transactions_by_slot ON transactions (slot);
    CREATE TABLE IF NOT EXISTS mentions (
        address TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (address, number)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS undo (
        slot INTEGER NOT NULL, number INTEGER NOT NULL, address BLOB NOT NULL, account BLOB
    );
    CREATE INDEX IF NOT EXISTS undo_by_slot ON undo (slot);
    DROP INDEX IF EXISTS undo_by_number;
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class Outcome(msgspec.Struct, frozen=True):
    """Of a record, what its status tells; decoding no more saves nine tenths of the time."""

    signature: str
    slot: int
    time: int
    err: Any


class Store:
    """One connection, used by one thread."""

    def __init__(self, path: Path | None) -> None:
        """Without a path everything ends with the process."""
        self._db = sqlite3.connect(path or ":memory:")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(TABLES)
        self._is_held = False
        self._put_later: dict[Pubkey, Account | None] = {}  # of a batch: the same few accounts change again and again
        self._slot = -1
        self._undoable: set[Pubkey] = set()  # whose accounts of before that slot are in undo

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is changed within is committed once, at the end, however it ends: who is told more has it for sure."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            with self._db:
                self._put_now()

    def _committed(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._is_held else self._db

    def fact(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep_facts(self, facts: dict[str, bytes], finalized: int) -> None:
        """Beside it forgets how to undo what a fork cannot drop any more."""
        with self._committed():
            self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            self._db.execute("DELETE FROM undo WHERE slot <= ?", (finalized,))

    def accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        for address, account in self._db.execute("SELECT address, account FROM accounts"):
            yield Pubkey(address), Account.from_bytes(account)

    def owned_by(self, owner: Pubkey) -> list[Pubkey]:
        self._put_now()
        rows = self._db.execute("SELECT address FROM accounts WHERE owner = ? ORDER BY address", (bytes(owner),))
        return [Pubkey(address) for (address,) in rows]

    def put(self, changes: Changes) -> None:
        with self._committed():
            self._put({address: after for address, (_, after) in changes.items()})

    def append(self, record: Record, changes: Changes) -> None:
        slot = record["slot"]
        if slot != self._slot:
            self._slot, self._undoable = slot, set()
        fresh = [(key, before) for key, (before, _) in changes.items() if key not in self._undoable]
        with self._committed():
            self._put_later |= {address: after for address, (_, after) in changes.items()}
            if not self._is_held:
                self._put_now()
            number = self._db.execute(
                "INSERT INTO transactions (signature, slot, record) VALUES (?, ?, ?)",
                (record["signature"], record["slot"], msgspec.msgpack.encode(record)),
            ).lastrowid
            self._db.executemany(
                "INSERT OR IGNORE INTO mentions VALUES (?, ?)", [(key, number) for key in record["keys"]]
            )
            self._db.executemany(
                "INSERT INTO undo VALUES (?, ?, ?, ?)",
                [(slot, number, bytes(key), bytes(before) if before else None) for key, before in fresh],
            )
        self._undoable.update(key for key, _ in fresh)

    def transaction(self, signature: str) -> Record | None:
        row = self._db.execute("SELECT record FROM transactions WHERE signature = ?", (signature,)).fetchone()
        return _record(row[0]) if row else None

    def outcome(self, signature: str) -> Outcome | None:
        row = self._db.execute("SELECT record FROM transactions WHERE signature = ?", (signature,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Outcome) if row else None

    def count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM transactions").fetchone()[0])

    def mentioning(
        self, address: str, before: str | None, until: str | None, slot_max: int, limit: int
    ) -> list[Outcome]:
        """Newest first. A signature that is not known bounds nothing below, and everything above."""
        rows = self._db.execute(
            """
            SELECT record FROM mentions JOIN transactions USING (number)
            WHERE address = ?1 AND slot <= ?4
                AND (?2 IS NULL OR number < (SELECT number FROM transactions WHERE signature = ?2))
                AND (?3 IS NULL OR number > coalesce((SELECT number FROM transactions WHERE signature = ?3), 0))
            ORDER BY number DESC LIMIT ?5
            """,
            (address, before, until, slot_max, limit),
        )
        return [msgspec.msgpack.decode(row[0], type=Outcome) for row in rows]

    def since(self, slot: int) -> list[Record]:
        """Oldest first."""
        rows = self._db.execute("SELECT record FROM transactions WHERE slot >= ? ORDER BY number", (slot,))
        return [_record(row[0]) for row in rows]

    def drop_since(self, slot: int) -> tuple[dict[Pubkey, Account | None], list[Record]]:
        """Forgets transactions of these slots: what their accounts were before, and the dropped, newest first."""
        self._put_now()
        self._undoable = set()
        rows = self._db.execute(
            "SELECT number, record FROM transactions WHERE slot >= ? ORDER BY number DESC", (slot,)
        ).fetchall()
        restored: dict[Pubkey, Account | None] = {}
        with self._committed():
            for address, account in self._db.execute(
                "SELECT address, account FROM undo WHERE slot >= ? ORDER BY number DESC", (slot,)
            ):
                restored[Pubkey(address)] = Account.from_bytes(account) if account else None
            self._db.execute("DELETE FROM undo WHERE slot >= ?", (slot,))
            for number, _ in rows:
                for table in ("mentions", "transactions"):
                    self._db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))  # noqa: S608 - of our own names
            self._put(restored)
        return restored, [_record(record) for _, record in rows]

    def _put_now(self) -> None:
        self._put(self._put_later)
        self._put_later = {}

    def _put(self, accounts: dict[Pubkey, Account | None]) -> None:
        gone = [(bytes(address),) for address, account in accounts.items() if account is None]
        there = [
            (bytes(address), bytes(account.owner), bytes(account))
            for address, account in accounts.items()
            if account is not None
        ]
        self._db.executemany("DELETE FROM accounts WHERE address = ?", gone)
        self._db.executemany("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", there)


def _record(raw: bytes) -> Record:
    record: Record = msgspec.msgpack.decode(raw)
    return record
