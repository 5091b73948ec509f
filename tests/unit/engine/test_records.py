"""The shared nouns of accounts and ledger carry no behaviour, but one keeps a secret."""

from engine.records import UserRecord


def test_a_users_password_hash_is_not_in_its_repr() -> None:
    user = UserRecord(7, "someone@example.org", "Someone", "student", "active", "A", b"$2b$12$secret", 0)

    assert "secret" not in repr(user)
    assert "someone" not in repr(user).lower()
    assert "7" in repr(user)
