"""A whole exchange as its operator starts it: `wattbookd` in a process of its own, on its own ports and data.

One installation serves all tests of a run (`shared`), because a start takes seconds. People reach it as everybody
does, through HTTP; what they may know of it is its address.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any, Final

import httpx
import msgspec
import psutil
import pytest

from actors import clock, crash_points, detour
from bench import processes
from bench.installation import free_ports
from persistence.embedded_devnet import FAULTS_VARIABLE
from persistence.sealing import MasterKeys, master_keys
from tests.support.patience import HUNG_SECONDS, until

ADMIN_EMAIL: Final = "keeper@example.org"
ADMIN_PASSWORD: Final = "lantern-otter-quarry-58"
PERSON_PASSWORD: Final = "marble-thicket-oboe-41"
TRAPS: Final = ("engine", "actors", "chain", "ray", "msgspec", "solders", "aiohttp")  # packages, ours and others'
_SECRET: Final = re.compile(r'"(?:access_token|refresh_token|secret)":"([^"]+)"')

_SHARED: pytest.StashKey["Installation"] = pytest.StashKey()


class Stopped(msgspec.Struct, frozen=True):
    """How a daemon ended. seconds: until it and the last process of its tree had gone; left: those that had not."""

    seconds: float
    exit_code: int
    left: list[str]


class Person:
    """Somebody who knows nothing but the API."""

    def __init__(self, url: str, email: str, password: str = PERSON_PASSWORD) -> None:
        self.email, self.password = email, password
        self.http = httpx.Client(base_url=url + "/api/v1", timeout=HUNG_SECONDS)
        self.token = self.refresh_token = self.user_id = ""
        self.secrets = {password}  # everything that he was ever told, for the test that looks for it in the logs

    def register(self, **deposits: str) -> "Person":
        """Become a trader with these deposits; the asset `energy_Z1` is `energy:Z1`."""
        self.call("POST", "/auth/register", {"email": self.email, "password": self.password, "name": "Somebody"})
        self.login()
        for asset, amount in deposits.items():
            self.call("POST", "/deposits", {"asset": asset.replace("_", ":"), "amount": amount})
        return self

    def login(self) -> "Person":
        session = self.call("POST", "/auth/login", {"email": self.email, "password": self.password})
        self.use(session)
        self.user_id = self.call("GET", "/users/me")["id"]
        return self

    def use(self, session: dict[str, Any]) -> None:
        self.token, self.refresh_token = session["access_token"], session["refresh_token"]
        self.http.headers["Authorization"] = f"Bearer {self.token}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        answer = self.http.request(method, path, json=body, headers=headers)
        self.secrets |= set(_SECRET.findall(answer.text))
        return answer

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of a request that must succeed; of a read that tells that it is behind, the first that is not."""
        answer = until(lambda: self.ask(method, path, body), lambda answer: method != "GET" or not is_behind(answer))
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, body: Any = None) -> str:
        """The code of a request that must be refused."""
        answer = self.ask(method, path, body)
        assert not answer.is_success, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return str(answer.json()["code"])

    def place(self, side: str, price: str, quantity: str, market: str = "CAMPUS", **more: Any) -> dict[str, Any]:
        body = {"market": market, "side": side, "type": "limit", "price": price, "quantity": quantity, **more}
        order: dict[str, Any] = self.call("POST", "/orders", body)
        return order

    def balances(self) -> dict[str, dict[str, Decimal]]:
        items = self.call("GET", "/balances")["items"]
        return {item.pop("asset"): {name: Decimal(amount) for name, amount in item.items()} for item in items}

    def close(self) -> None:
        self.http.close()


def is_behind(answer: httpx.Response) -> bool:
    return "x-projection-lag" in answer.headers


class Installation:
    """Its settings, its process and what may be asked of both."""

    def __init__(self, **settings: str) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))  # Ray's sockets need a short path
        self.data_dir.chmod(0o711)  # the servers run as another user when root runs the tests
        self.http_port, self.metrics_port, self.dashboard_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.crash_order = self.data_dir / "crash-order"
        self.detour = self.data_dir / "detour"
        self.clock = self.data_dir / "clock"
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("WATTBOOK_", "RAY_"))},
            "WATTBOOK_DATA_DIR": str(self.data_dir),
            "WATTBOOK_HTTP_PORT": str(self.http_port),
            "WATTBOOK_METRICS_PORT": str(self.metrics_port),
            "WATTBOOK_RAY_DASHBOARD_PORT": str(self.dashboard_port),
            "WATTBOOK_ADMIN_EMAIL": ADMIN_EMAIL,
            "WATTBOOK_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "WATTBOOK_SNAPSHOT_EVERY": "500",  # often enough to die beside one
            "WATTBOOK_SETTLEMENT_EVERY_SECONDS": "2",
            "WATTBOOK_DEVNET_SLOT_MS": "150",  # final after five seconds instead of thirteen
            "WATTBOOK_RECONCILIATION_EVERY_SECONDS": "2",
            crash_points.VARIABLE: str(self.crash_order),
            detour.VARIABLE: str(self.detour),
            clock.VARIABLE: str(self.clock),
            FAULTS_VARIABLE: "1",
            "COLUMNS": "200",
            **settings,
        }
        self.output_file = self.data_dir / "output.txt"
        self.folder = _full_of_traps(self.data_dir / "elsewhere")
        self.started_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._people: list[Person] = []
        self._numbers = iter(range(1, 10_000))

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon and wait until it is ready, which `started_seconds` then tells."""
        began = monotonic()
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen(
                [_program("wattbookd")], cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        while not self.ready() or "is ready" not in self.output:
            assert self._process.poll() is None, f"the daemon ended:\n{self.output}"
            assert monotonic() - began < HUNG_SECONDS, f"not ready in time:\n{self.output}"
            time.sleep(0.1)
        self.started_seconds = monotonic() - began

    def stop(self) -> Stopped:
        """Press Ctrl-C and wait for the end."""
        assert self._process is not None
        tree = self.processes()
        began = monotonic()
        self._process.send_signal(signal.SIGINT)
        try:
            exit_code = self._process.wait(HUNG_SECONDS)
        except subprocess.TimeoutExpired:
            exit_code = -1
        # Ray's helpers of helpers see that their parents are gone a moment later.
        _, left = psutil.wait_procs(tree, timeout=max(0.0, HUNG_SECONDS - (monotonic() - began)))
        seconds = monotonic() - began
        described = [_describe(process) for process in left if not _has_ended(process)]
        for process in left:  # a test has failed then; the machine shall not suffer for it
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process = None
        return Stopped(seconds, exit_code, described)

    def remove(self) -> None:
        """Stop if it still runs, and forget the data."""
        for person in self._people:
            person.close()
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None

    def ready(self) -> bool:
        try:
            return httpx.get(self.url + "/health/ready", timeout=HUNG_SECONDS).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def until_ready(self, seconds: float = HUNG_SECONDS) -> None:
        deadline = monotonic() + seconds
        while not self.ready():
            assert monotonic() < deadline, httpx.get(self.url + "/health/ready", timeout=HUNG_SECONDS).text
            time.sleep(0.1)

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """All that the daemon has printed."""
        return self.output_file.read_text()

    @property
    def chain_url(self) -> str:
        """Of the private chain, for JSON-RPC."""
        found = re.findall(r"Local Solana\s+(http://\S+)", self.output)
        assert found, self.output
        return str(found[-1])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything that it has started, whoever is its parent by now."""
        return processes.of_exchange(self.data_dir)

    def actors(self, kind: str) -> list[psutil.Process]:
        """The processes of one kind of actor, by the title that Ray gives them."""
        return [process for process in self.processes() if processes.title(process).startswith(f"ray::{kind}")]

    def market_process(self, symbol: str) -> psutil.Process:
        """The process of this market's actor: the one that writes the market's log."""
        return processes.market(self.data_dir, symbol)

    # --- who uses it ------------------------------------------------------------------------------------------------

    def person(self, email: str = "", password: str = PERSON_PASSWORD) -> Person:
        person = Person(self.url, email or f"person-{next(self._numbers)}@example.org", password)
        self._people.append(person)
        return person

    def admin(self) -> Person:
        return self.person(ADMIN_EMAIL, ADMIN_PASSWORD).login()

    @property
    def secrets_used(self) -> set[str]:
        """Passwords, tokens and keys of all people of this installation."""
        return {secret for person in self._people for secret in person.secrets}

    def master_keys(self) -> MasterKeys:
        """With which its secrets are sealed, for tests of somebody who has got hold of them."""
        return master_keys("", self.data_dir / "keys")

    def command(self, program: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `wattbook` or `wattbookd` as an operator beside the daemon would."""
        return subprocess.run(
            [_program(program), *arguments],
            cwd=self.folder,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=HUNG_SECONDS,
            check=False,
        )


def _full_of_traps(folder: Path) -> Path:
    """Where its programs are started: whoever of them imports what lies there ends."""
    for name in TRAPS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('{name} of the caller was imported')")
    return folder


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Installation:
    """The installation that all tests of this run share; whoever stops it must start it again or be the last."""
    stash = request.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = started = Installation()
        request.config.add_cleanup(started.remove)
        started.start()
    return stash[_SHARED]


def _program(name: str) -> str:
    """A console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def _has_ended(process: psutil.Process) -> bool:
    """It runs no more, whether or not the machine's first process, whose child it is by now, has looked at it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _describe(process: psutil.Process) -> str:
    return f"{process.pid} {processes.title(process)[:120]}"
