"""Master keys and seals: bound to their owner, closed to others, never written over.

Seen to fail for: a seal that is not bound to whom it belongs, nor to its key's version; a key file that others may read
accepted; `add` that renames onto an existing key; an old version that is forgotten when a new one comes.
"""

import base64
import stat
from pathlib import Path

import msgspec
import pytest

from persistence.sealing import (
    GivenMasterKeys,
    MasterKeyFolder,
    MasterKeyProblem,
    SealBroken,
    master_keys,
    seal,
    unseal,
)

SECRET = bytes(range(32))


def given(*versions: int) -> str:
    return ",".join(f"{version}:{base64.b64encode(bytes([version]) * 32).decode()}" for version in versions)


def test_what_was_sealed_opens_for_whom_it_belongs_to_and_nobody_else() -> None:
    keys = GivenMasterKeys(given(1))
    sealed = seal(keys, SECRET, b"ann")

    assert unseal(keys, sealed, b"ann") == SECRET
    assert SECRET not in sealed.ciphertext
    with pytest.raises(SealBroken):
        unseal(keys, sealed, b"bob")


@pytest.mark.parametrize("part", ["nonce", "ciphertext"])
def test_a_changed_bit_is_noticed(part: str) -> None:
    keys = GivenMasterKeys(given(1))
    sealed = seal(keys, SECRET, b"ann")
    first, *rest = getattr(sealed, part)

    with pytest.raises(SealBroken):
        unseal(keys, msgspec.structs.replace(sealed, **{part: bytes([first ^ 1, *rest])}), b"ann")


def test_a_seal_does_not_open_as_one_of_another_version() -> None:
    same = base64.b64encode(b"k" * 32).decode()
    keys = GivenMasterKeys(f"1:{same},2:{same}")
    sealed = seal(keys, SECRET, b"ann")

    assert sealed.key_version == 2
    with pytest.raises(SealBroken):
        unseal(keys, msgspec.structs.replace(sealed, key_version=1), b"ann")


def test_the_newest_key_seals_and_the_older_ones_still_open() -> None:
    old = seal(GivenMasterKeys(given(1)), SECRET, b"ann")
    keys = GivenMasterKeys(given(2, 1))

    assert unseal(keys, old, b"ann") == SECRET
    assert seal(keys, SECRET, b"ann").key_version == 2
    with pytest.raises(MasterKeyProblem, match="master key 1 is not among"):
        unseal(GivenMasterKeys(given(2)), old, b"ann")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("secret", "look like"),
        ("0:" + base64.b64encode(bytes(32)).decode(), "look like"),
        ("1:AAAA", "must be 32 bytes"),
        (given(1) + "," + given(1), "given twice"),
    ],
)
def test_keys_that_are_none_are_refused_without_being_shown(text: str, said: str) -> None:
    with pytest.raises(MasterKeyProblem, match=said) as caught:
        GivenMasterKeys(text)

    assert text.partition(":")[2][:20] not in str(caught.value) or ":" not in text
    assert "AAAA" not in repr(GivenMasterKeys(given(3)))


def test_the_first_key_is_made_closed_to_others_and_stays(tmp_path: Path) -> None:
    folder = MasterKeyFolder(tmp_path / "keys")
    sealed = seal(folder, SECRET, b"ann")
    (path,) = (tmp_path / "keys").iterdir()

    assert (path.name, stat.S_IMODE(path.stat().st_mode)) == ("wallet-0001.key", 0o600)
    assert unseal(MasterKeyFolder(tmp_path / "keys"), sealed, b"ann") == SECRET
    path.chmod(0o640)
    with pytest.raises(MasterKeyProblem, match="0600"):
        unseal(folder, sealed, b"ann")


def test_a_key_that_another_process_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder, theirs = MasterKeyFolder(tmp_path), tmp_path / "wallet-0001.key"

    class Late(MasterKeyFolder):
        def _versions(self) -> list[int]:
            return []  # it looked before the other one wrote

    folder.add()
    before = theirs.read_bytes()

    assert Late(tmp_path).add() == 1
    assert theirs.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["wallet-0001.key"]


def test_a_new_key_needs_no_restart(tmp_path: Path) -> None:
    running, command = MasterKeyFolder(tmp_path), MasterKeyFolder(tmp_path)
    old = seal(running, SECRET, b"ann")

    command.add()

    assert seal(running, SECRET, b"ann").key_version == 2
    assert unseal(running, old, b"ann") == SECRET
    (tmp_path / "wallet-0001.key").unlink()
    with pytest.raises(MasterKeyProblem, match=r"wallet-0001\.key"):
        unseal(running, old, b"ann")


def test_a_setting_comes_before_files(tmp_path: Path) -> None:
    assert master_keys(given(7), tmp_path).newest() == 7
    assert list(tmp_path.iterdir()) == []
    assert master_keys("", tmp_path).newest() == 1
