"""The private servers: start, crash, owner's death, second owner, unusual places and users.

Seen to fail for: no parent-death watch, no lock, a pid file left in place, sockets beside data at any length.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from persistence.embedded import AlreadyRunning, EmbeddedPostgres, EmbeddedValkey, StartFailed
from tests.support.patience import HUNG_SECONDS, until

ROOT = Path(__file__).parents[3]
OWNER = """
import sys, time
from pathlib import Path
from persistence.embedded import EmbeddedPostgres, EmbeddedValkey
postgres, valkey = EmbeddedPostgres(Path(sys.argv[1])), EmbeddedValkey(Path(sys.argv[1]))
postgres.start(), valkey.start()
print(postgres.pid, valkey.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: the sockets live beside the data."""
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "var"


def query(dsn: str, sql: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def ends(pid: int) -> None:
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_data_survives_a_stop_and_a_crash(place: Path) -> None:
    server = EmbeddedPostgres(place)

    dsn = server.start()
    query(dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    server.stop()
    query(server.start(), "INSERT INTO kept VALUES (43)")
    server.kill()
    total = query(server.start(), "SELECT sum(value) FROM kept")

    server.stop()
    assert total == 85


def test_commits_are_durable_and_nothing_listens_on_tcp(place: Path) -> None:
    with EmbeddedPostgres(place) as server:
        shown = {
            name: query(server.address, f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "data_checksums")
        }

    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "data_checksums": "on",
    }


def test_second_start_uses_the_cluster_that_the_first_one_made(place: Path) -> None:
    made = []
    for _ in range(2):
        begun = time.perf_counter()
        with EmbeddedPostgres(place) as server:
            print(f"started in {time.perf_counter() - begun:.1f} s")
            made.append(query(server.address, "SELECT system_identifier FROM pg_control_system()"))

    assert made[0] == made[1]


def test_second_start_on_the_same_data_names_who_runs_it(place: Path) -> None:
    with EmbeddedPostgres(place), pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        EmbeddedPostgres(place).start()


def test_pid_file_whose_number_was_reused_does_not_stop_the_start(place: Path) -> None:
    server = EmbeddedPostgres(place)
    server.start()
    server.kill()
    file = place / "postgres" / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    with subprocess.Popen(["sleep", "30"], user=file.stat().st_uid if os.geteuid() == 0 else None) as other:
        file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")

        answer = query(server.start(), "SELECT 1")

        other.kill()
    server.stop()
    assert answer == 1


@pytest.mark.parametrize("victims", ["owner", "owner and guardians"])
def test_servers_end_with_an_owner_that_is_killed_and_the_next_start_recovers(place: Path, victims: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(place)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    guardians = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids]
    query(EmbeddedPostgres(place).address, "CREATE TABLE kept AS SELECT 42 AS value")

    owner.send_signal(signal.SIGKILL)
    for guardian in guardians if victims != "owner" else []:
        os.kill(guardian, signal.SIGKILL)
    owner.wait()
    with EmbeddedPostgres(place) as server:  # at once: it waits for the orphan to stop
        value = query(server.address, "SELECT value FROM kept")

    owner.stdout.close()
    assert value == 42
    for pid in (*pids, *guardians):
        ends(pid)


def test_servers_do_not_hear_the_owners_terminal(place: Path) -> None:
    with EmbeddedPostgres(place) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_path_too_long_for_a_socket_gets_its_socket_elsewhere(place: Path) -> None:
    deep = place / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True, mode=0o711)

    with EmbeddedPostgres(deep) as postgres, EmbeddedValkey(deep) as valkey:
        answer = query(postgres.address, "SELECT 1")
        pong = redis.Redis.from_url(valkey.address).ping()
        sockets = Path(postgres.address.partition("host=")[2].replace("%2F", "/"))
        mode = sockets.stat().st_mode & 0o777

    assert (answer, pong, mode) == (1, True, 0o700)
    assert not sockets.exists()


def test_valkey_answers_with_a_bounded_memory(place: Path) -> None:
    with EmbeddedValkey(place) as server, redis.Redis.from_url(server.address, decode_responses=True) as client:
        client.set("name", "value")

        assert client.get("name") == "value"
        assert int(client.config_get("maxmemory")["maxmemory"]) == 64 * 2**20
        assert client.config_get("port")["port"] == "0"


def test_failed_start_says_why(place: Path) -> None:
    with EmbeddedPostgres(place):
        pass
    (place / "postgres" / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(StartFailed, match="incompatible"):
        EmbeddedPostgres(place).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_servers_do_not_run_as_root_even_where_only_root_may_look(place: Path) -> None:
    hidden = place / "hidden"
    hidden.mkdir(parents=True)
    (hidden / "link").symlink_to(hidden)
    hidden.chmod(0o700)

    with EmbeddedPostgres(hidden / "link") as postgres, EmbeddedValkey(hidden) as valkey:
        answer = query(postgres.address, "SELECT 1")
        users = {Path(f"/proc/{pid}").stat().st_uid for pid in (postgres.pid, valkey.pid)}

    assert answer == 1
    assert 0 not in users


def interpreter_for_all() -> str | None:
    """A Python that any user may run and that knows our packages; the one that runs us may be root's own."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
                user=65534,
                group=65534,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_ordinary_user_starts_both(place: Path) -> None:
    packages = Path(asyncpg.__file__).parents[1]
    if not all(parent.stat().st_mode & 0o001 for parent in (ROOT, *packages.parents)):
        pytest.skip("an ordinary user may not reach the sources here")
    python = interpreter_for_all()
    if python is None:
        pytest.skip("an ordinary user has no Python 3.11 here")
    place.parent.chmod(0o777)
    script = OWNER.replace("time.sleep(120)", "valkey.stop(), postgres.stop()")

    done = subprocess.run(
        [python, "-B", "-c", script, str(place)],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd=ROOT,
        env={"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=HUNG_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


def test_server_that_was_killed_starts_again_at_its_old_address_with_what_was_committed(place: Path) -> None:
    deep = place / ("d" * 60) / ("e" * 60)  # sockets in the temporary directory: a new one would be another address
    deep.mkdir(parents=True, mode=0o711)
    with EmbeddedPostgres(deep) as postgres, EmbeddedValkey(deep) as valkey:
        addresses = postgres.address, valkey.address
        query(postgres.address, "CREATE TABLE kept AS SELECT 42 AS value")
        for server in (postgres, valkey):
            os.kill(server.pid, signal.SIGKILL)
        until(lambda: not postgres.running and not valkey.running)

        assert (postgres.restart(), valkey.restart()) == addresses

        assert query(addresses[0], "SELECT value FROM kept") == 42
        assert redis.Redis.from_url(addresses[1]).ping()


def test_server_whose_guardian_was_killed_is_waited_for_and_starts_again(place: Path) -> None:
    with EmbeddedPostgres(place) as server:
        first = server.pid
        guardian = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])

        os.kill(guardian, signal.SIGKILL)
        while server.running:
            time.sleep(0.01)
        server.restart()

        assert server.pid != first
        ends(first)
        assert query(server.address, "SELECT 1") == 1
