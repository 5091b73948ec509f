"""A devnet of its own for each test. A module's SLOT_SECONDS is how long a slot of its devnets takes; without it their
time passes when the test says so.

Making the programs ready takes longer than most tests: it is done once, and each `world` begins with a copy of that
chain and of the keys that it knows.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from chain.client.deployment import Deployment
from tests.support.devnet import DevnetProcess
from tests.support.on_chain import OnChain, keys_of, pool_of

LONG_ENOUGH = 33  # slots, after which all is final


@pytest.fixture(scope="session")
def ready_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chain on which everything is initialized, and the keys of its roles, which have lamports."""
    folder = tmp_path_factory.mktemp("ready")
    devnet = DevnetProcess(folder / "chain.sqlite", 0.02).start()
    try:
        effects, signers = keys_of(folder)
        for signer in signers.values():
            devnet.call("requestAirdrop", str(signer.address), 10**12)

        async def prepare() -> None:
            async with pool_of(devnet.url) as pool:
                await Deployment(pool, effects, signers).prepare()

        asyncio.run(prepare())
        devnet.tick(LONG_ENOUGH)
    finally:
        devnet.kill()
    return folder


@pytest.fixture
def devnet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DevnetProcess]:
    if "world" in request.fixturenames:
        shutil.copytree(request.getfixturevalue("ready_chain"), tmp_path, dirs_exist_ok=True)
    process = DevnetProcess(tmp_path / "chain.sqlite", getattr(request.module, "SLOT_SECONDS", 0)).start()
    try:
        yield process
    finally:
        process.kill()


@pytest_asyncio.fixture
async def world(devnet: DevnetProcess, pool: asyncpg.Pool, tmp_path: Path) -> OnChain:
    return OnChain(devnet, pool, tmp_path)
