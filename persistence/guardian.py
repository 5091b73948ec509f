"""Runs one server for an owner and ends it when the owner is gone. A program: `python -I -S guardian.py JSON`.

Why a process between them: a parent-death signal alone is tied to the *thread* that started the server, and code that
runs between fork and exec in a process with threads can hang. This process has one thread. It watches its owner, so
that even an owner that was killed leaves an orderly shutdown behind, and the server has a parent-death signal on this
process, so that killing both is covered too. Standard library only: it starts in a few milliseconds.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any, Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
PR_SET_KEEPCAPS: Final = 8
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
CAP_DAC_READ_SEARCH: Final = 2
CAPABILITY_VERSION_3: Final = 0x20080522

OWNER_CHECK_SECONDS: Final = 0.25
WATCHED: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def main() -> int:
    """Start the server, print its pid, wait; the exit status is the server's (128 + signal if a signal ended it)."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    guardian = os.getpid()
    server = os.fork()
    if server == 0:
        _become_server(order, guardian)
    os.write(1, str(server).encode())
    os.close(1)  # the owner reads to the end
    status = _watch(server, int(order["owner"]), order["stops"])
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _watch(server: int, owner: int, stops: list[tuple[str, float]]) -> int:
    """Wait for the server's end; ask for it, ever less politely, when told to or when the owner is gone."""
    while True:
        got = signal.sigtimedwait(WATCHED, OWNER_CHECK_SECONDS)
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            return status
        asked = got is not None and got.si_signo != signal.SIGCHLD
        if asked or os.getppid() != owner:
            break
    for name, seconds in [*stops, ("SIGKILL", 10.0)]:
        os.kill(server, signal.Signals[name])
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            ended, status = os.waitpid(server, os.WNOHANG)
            if ended:
                return status
    raise SystemExit(f"process {server} survived SIGKILL")


def _become_server(order: dict[str, Any], guardian: int) -> NoReturn:
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        libc = ctypes.CDLL(None, use_errno=True)
        if order["uid"] is not None:
            _change_user(libc, int(order["uid"]), int(order["gid"]), bool(order["may_search"]))
        # After the change of user, which would clear it.
        death = signal.Signals[order["stops"][-1][0]]
        _checked(libc.prctl(PR_SET_PDEATHSIG, int(death), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != guardian:
            os._exit(1)
        os.umask(0o077)
        os.chdir(order["cwd"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        os.execv(order["argv"][0], order["argv"])  # noqa: S606 - there is no shell, and the owner names the program
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: what it catches is its answer
        os.write(2, f"cannot start {order['argv'][0]}: {error}\n".encode())
    os._exit(127)


def _change_user(libc: ctypes.CDLL, uid: int, gid: int, may_search: bool) -> None:
    """Drop root. may_search keeps the right to read and search, for programs installed where only root may look."""
    if may_search:
        _checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if may_search:
        bit = 1 << CAP_DAC_READ_SEARCH
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable
        _checked(libc.capset(header, data), "capset")
        _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0), "prctl(PR_CAP_AMBIENT)")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
