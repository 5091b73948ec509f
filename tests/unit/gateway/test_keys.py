"""The keys that sign access tokens, and how they are changed for others without a moment of doubt.

Seen to fail for: a new key that signs before others can know it, a rotation that removes the key of living tokens, a
remembered token that outlives its removed key.
"""

import asyncio
import os
import stat
import time
from pathlib import Path

import jwt
import pytest

from gateway.auth import tokens
from gateway.auth.keys import PUBLISHED_SECONDS, KeyUnsafe, kid_of, open_keys, open_pepper, rotate
from gateway.settings import ACCESS_SECONDS
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import World


def made_ago(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def kids(directory: Path) -> list[str]:
    return [key["kid"] for key in open_keys(directory).jwks()["keys"]]


def signing(directory: Path) -> str:
    return kid_of(open_keys(directory).signing_key.public_key())


def test_what_is_secret_is_a_private_file(tmp_path: Path) -> None:
    ring, pepper = open_keys(tmp_path), open_pepper(tmp_path)

    assert open_pepper(tmp_path) == pepper
    assert len(pepper) == 32
    assert "PRIVATE" not in repr(ring)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
    with pytest.raises(KeyUnsafe, match="0600"):
        open_keys(tmp_path)
    with pytest.raises(KeyUnsafe, match="0600"):
        open_pepper(tmp_path)


def test_what_is_no_key_is_refused_by_its_name(tmp_path: Path) -> None:
    for name, content in (("jwt-0001.pem", b"no key"), ("api-key-pepper", b"short")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)

    with pytest.raises(KeyUnsafe, match=r"jwt-0001\.pem"):
        open_keys(tmp_path)
    with pytest.raises(KeyUnsafe, match="api-key-pepper"):
        open_pepper(tmp_path)


def test_a_new_key_is_published_before_it_signs(tmp_path: Path) -> None:
    old = signing(tmp_path)
    made_ago(tmp_path / "jwt-0001.pem", 3_600)

    rotation = rotate(tmp_path, ACCESS_SECONDS)

    assert rotation == ("jwt-0002.pem", [])
    assert len(kids(tmp_path)) == 2
    assert signing(tmp_path) == old
    made_ago(tmp_path / "jwt-0002.pem", PUBLISHED_SECONDS + 1)
    assert signing(tmp_path) != old


def test_a_key_stays_as_long_as_a_token_of_it_may_live(tmp_path: Path) -> None:
    open_keys(tmp_path)
    rotate(tmp_path, ACCESS_SECONDS)
    made_ago(tmp_path / "jwt-0001.pem", 10_000)
    made_ago(tmp_path / "jwt-0002.pem", PUBLISHED_SECONDS + ACCESS_SECONDS)
    assert rotate(tmp_path, ACCESS_SECONDS).removed == []

    made_ago(tmp_path / "jwt-0002.pem", PUBLISHED_SECONDS + 3 * ACCESS_SECONDS)

    assert rotate(tmp_path, ACCESS_SECONDS) == ("jwt-0004.pem", ["jwt-0001.pem"])


async def test_a_key_that_is_known_to_others_is_removed_and_its_tokens_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await world.person()
    assert (await ann.get("/api/v1/users/me")).status_code == 200
    monkeypatch.setattr(tokens, "_KEYS_SECONDS", 0.0)
    following = asyncio.create_task(world.gateway.tokens.follow_keys())

    rotation = rotate(world.settings.key_directory, ACCESS_SECONDS, now=True)
    async with asyncio.timeout(HUNG_SECONDS):
        while (await ann.get("/api/v1/users/me")).status_code != 401:  # noqa: ASYNC110 - as its owner sees it
            await asyncio.sleep(0)
    following.cancel()

    assert rotation == ("jwt-0002.pem", ["jwt-0001.pem"])
    fresh = await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    ann.token = fresh.json()["access_token"]
    assert (await ann.get("/api/v1/users/me")).status_code == 200
    (published,) = (await world.client.get("/.well-known/jwks.json")).json()["keys"]
    assert jwt.get_unverified_header(ann.token)["kid"] == published["kid"]


async def test_keys_that_cannot_be_read_leave_those_that_were(world: World) -> None:
    (path,) = world.settings.key_directory.glob("jwt-*.pem")
    ann = await world.person()

    path.unlink()
    with pytest.raises(KeyUnsafe, match="no key any more"):
        world.gateway.keys.reload()

    assert (await ann.get("/api/v1/users/me")).status_code == 200
