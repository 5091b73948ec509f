"""Keys of authorities: sealed at rest, each role its own, never shown, never written over.

Seen to fail for: a seed in the file, one role's file taken for another's, a mode that lets others read.
"""

import pickle
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from solders.keypair import Keypair

from chain.client.wallets import Authorities, KeyUnusable, Role


class OneKey:
    """Seals with AES-GCM and one nonce, which is enough to see who is told what belongs to whom."""

    def seal(self, secret: bytes, belongs_to: bytes) -> bytes:
        return AESGCM(bytes(32)).encrypt(bytes(12), secret, belongs_to)

    def unseal(self, sealed: bytes, belongs_to: bytes) -> bytes:
        return AESGCM(bytes(32)).decrypt(bytes(12), sealed, belongs_to)


SEED = bytes(range(32))


def test_each_role_has_a_key_of_its_own_that_stays(tmp_path: Path) -> None:
    keys = Authorities(tmp_path / "keys", OneKey())
    addresses = [keys.signer(role).address for role in Role]

    assert len(set(addresses)) == len(Role)
    assert [Authorities(tmp_path / "keys", OneKey()).signer(role).address for role in Role] == addresses


def test_the_file_holds_no_seed_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    Authorities(tmp_path, OneKey()).put(Role.MINTER, SEED)
    raw = (tmp_path / "minter.json").read_bytes()

    assert SEED not in raw
    assert SEED.hex().encode() not in raw
    assert (tmp_path / "minter.json").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["minter.json"]


def test_a_signature_is_the_keys(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    keys.put(Role.SETTLER, SEED)
    signer = keys.signer(Role.SETTLER)

    assert signer.sign(b"message") == Keypair.from_seed(SEED).sign_message(b"message")
    assert signer.sign(b"message").verify(signer.address, b"message")


def test_a_signer_shows_its_address_and_does_not_travel(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    keys.put(Role.SETTLER, SEED)
    signer = keys.signer(Role.SETTLER)

    assert repr(signer) == f"Signer(settler, {signer.address})"
    assert str(Keypair.from_seed(SEED)) not in repr(signer)
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    keys.put(Role.MINTER, SEED)

    with pytest.raises(FileExistsError):
        keys.put(Role.MINTER, bytes(32))
    assert keys.signer(Role.MINTER).address == Keypair.from_seed(SEED).pubkey()


def test_a_file_of_another_role_does_not_open(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    keys.put(Role.GOVERNANCE, SEED)
    (tmp_path / "governance.json").rename(tmp_path / "minter.json")

    with pytest.raises(InvalidTag):
        keys.signer(Role.MINTER)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"address": "x", "sealed": 7}'])
def test_a_damaged_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "minter.json").write_bytes(raw)
    (tmp_path / "minter.json").chmod(0o600)

    with pytest.raises(KeyUnusable, match=r"minter\.json"):
        Authorities(tmp_path, OneKey()).signer(Role.MINTER)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    keys.put(Role.MINTER, SEED)
    (tmp_path / "minter.json").chmod(0o640)

    with pytest.raises(KeyUnusable, match="0600"):
        keys.signer(Role.MINTER)


def test_the_next_key_takes_the_place_of_the_one_before_which_is_kept(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    first = keys.signer(Role.MINTER).address
    second = keys.propose(Role.MINTER).address

    assert keys.propose(Role.MINTER).address == second  # asked for twice, it is the same
    assert (keys.proposed(), keys.signer(Role.MINTER).address) == ([Role.MINTER], first)
    keys.promote(Role.MINTER)
    third = keys.propose(Role.MINTER).address
    keys.promote(Role.MINTER)

    assert keys.signer(Role.MINTER).address == third
    assert (keys.proposed(), keys.former(Role.MINTER)) == ([], [first, second])
    assert {each.name for each in tmp_path.iterdir()} == {"minter.json", "minter.1.json", "minter.2.json"}


def test_a_promotion_that_is_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    keys = Authorities(tmp_path, OneKey())
    first, second = keys.signer(Role.MINTER).address, keys.propose(Role.MINTER).address
    (tmp_path / "minter.1.json").hardlink_to(tmp_path / "minter.json")  # and then the power went

    keys.promote(Role.MINTER)

    assert keys.signer(Role.MINTER).address == second
    assert keys.former(Role.MINTER) == [first]
