"""The operator's two programs beside a running installation, and what they say to mistakes."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

import cli
from commands.shared import Failure
from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS, until

COMMANDS = (
    "",
    "status",
    "markets",
    "migrate",
    "migrate up",
    "migrate down",
    "migrate status",
    "audit",
    "audit log",
    "audit log verify",
    "certificate",
    "certificate verify",
    "deploy",
    "deploy check",
    "gateway",
    "gateway restart",
    "market",
    "market move",
    "replay",
    "backup",
    "restore",
    "logs",
    "trace",
    "chain",
    "chain keys",
    "chain rotate",
    "keys rotate",
    "keys rotate-wallets",
    "users password",
)


@pytest.mark.parametrize("command", [*COMMANDS, "load", "demo", "meters simulate"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"])

    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_status_and_markets_show_what_runs(installation: Installation) -> None:
    status = installation.command("wattbook", "status")
    markets = installation.command("wattbook", "markets")

    assert status.returncode == markets.returncode == 0, status.stdout + markets.stdout
    assert "ready" in status.stdout
    assert all(name in status.stdout for name in ("postgres", "redis", "market CAMPUS"))
    assert all(name in markets.stdout for name in ("CAMPUS", "RIVERSIDE", "open"))


def test_load_is_acknowledged_and_the_audit_finds_all_of_it(installation: Installation, tmp_path: Path) -> None:
    log = tmp_path / "acknowledged.jsonl"

    load = installation.command(
        "wattbook", "load", "--rate", "50", "--seconds", "2", "--users", "4", "--acknowledged", str(log)
    )
    audit = installation.command("wattbook", "audit", "--acknowledged", str(log))

    assert load.returncode == 0, load.stdout + load.stderr
    assert "p99" in load.stdout
    lines = len(log.read_text().splitlines())
    assert lines > 50
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert f"{lines} acknowledgements" in audit.stdout
    assert "no violations" in audit.stdout


def test_the_audit_sees_an_acknowledgement_that_nobody_gave(installation: Installation, tmp_path: Path) -> None:
    log = tmp_path / "acknowledged.jsonl"
    log.write_text(
        '{"participant":"1001","order_id":"1-999999","client_order_id":"x","market":"CAMPUS","side":"buy",'
        '"quantity":"1.000","filled_quantity":"0.000","status":"open","sequence":999999}\n'
    )

    audit = installation.command("wattbook", "audit", "--acknowledged", str(log))

    assert audit.returncode == 1
    assert "sequence 999999 is not in the journal" in audit.stdout


def test_the_audit_log_is_verified(installation: Installation, admin: Person) -> None:
    verified = installation.command("wattbook", "audit", "log", "verify")

    assert verified.returncode == 0, verified.stdout + verified.stderr
    number, last_hash = re.findall(r"verified: (\d+) rows, the last one ([0-9a-f]{64})", verified.stdout)[0]
    rows = {row["number"]: row["hash"] for row in admin.call("GET", "/admin/audit?limit=1000")["items"]}
    assert rows[number] == last_hash


def test_tokens_go_on_through_a_rotation_of_keys(installation: Installation, admin: Person) -> None:
    def keys() -> list[Any]:
        return list(httpx.get(installation.url + "/.well-known/jwks.json", timeout=HUNG_SECONDS).json()["keys"])

    before = keys()

    rotated = installation.command("wattbook", "keys", "rotate")

    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    assert "made jwt-0002.pem" in rotated.stdout
    until(keys, lambda now: len(now) > len(before))
    assert admin.call("GET", "/users/me")["role"] == "admin"


def test_keys_are_not_rotated_where_nothing_was_started(installation: Installation, tmp_path: Path) -> None:
    nowhere = installation.command("wattbook", "keys", "rotate", WATTBOOK_DATA_DIR=str(tmp_path / "none"))

    assert nowhere.returncode == 1
    assert "nothing has been started" in nowhere.stdout


def test_replay_verifies_the_journal_of_every_market(installation: Installation) -> None:
    replay = installation.command("wattbook", "replay")

    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert "verified CAMPUS" in replay.stdout
    assert "verified RIVERSIDE" in replay.stdout


def test_migrate_status_shows_every_migration_applied(installation: Installation) -> None:
    status = installation.command("wattbook", "migrate", "status")

    assert status.returncode == 0, status.stdout + status.stderr
    lines = [line for line in status.stdout.splitlines() if line.lstrip().startswith("0")]
    assert len(lines) >= 6
    assert all(line.rstrip().endswith("yes") for line in lines)


def test_wallets_get_a_new_master_key_beside_the_running_exchange(installation: Installation) -> None:
    installation.person().register().call("POST", "/users/me/wallets", {"platform": True})

    rotated = installation.command("wattbook", "keys", "rotate-wallets")

    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    said = re.search(r"(\d+) wallets are sealed with master key 2 now", rotated.stdout)  # who deposits has one, too
    assert said is not None, rotated.stdout
    assert int(said[1]) >= 1
    made = installation.person().register().call("POST", "/users/me/wallets", {"platform": True})
    assert made["primary"] is True


def test_who_has_lost_his_password_gets_another_from_the_operator(installation: Installation) -> None:
    person = installation.person().register()
    environment = {**installation.environment, "WATTBOOK_DATABASE_URL": ""}

    def given(password: str) -> Result:
        typed = f"{password}\n{password}\n"
        return CliRunner().invoke(cli.app, ["users", "password", person.email], input=typed, env=environment)

    weak, done = given("short"), given("harbour-violet-cello-77")

    assert isinstance(weak.exception, Failure)
    assert "12 to 128" in str(weak.exception)
    assert "1 sessions ended" in done.output, done.output
    assert "harbour" not in done.output
    assert installation.person(person.email, "harbour-violet-cello-77").login().user_id == person.user_id
    login = {"email": person.email, "password": person.password}
    assert person.refused("POST", "/auth/login", login) == "UNAUTHENTICATED"


def test_a_second_daemon_says_what_runs_and_harms_nothing(installation: Installation) -> None:
    before = _figures(installation)

    second = installation.command("wattbookd")

    assert second.returncode == 1
    assert "runs already" in second.stdout
    assert f"process {installation.pid}" in second.stdout
    assert installation.url in second.stdout
    assert installation.ready()
    assert _figures(installation) >= before > set()


def test_a_second_daemon_on_other_data_names_the_port_that_is_taken(installation: Installation, tmp_path: Path) -> None:
    second = installation.command("wattbookd", WATTBOOK_DATA_DIR=str(tmp_path / "other"))

    assert second.returncode == 1
    assert "WATTBOOK_HTTP_PORT" in second.stdout
    assert str(installation.http_port) in second.stdout


def test_wrong_settings_are_named_all_at_once_and_secrets_are_not_shown(
    installation: Installation, tmp_path: Path
) -> None:
    wrong = installation.command(
        "wattbookd",
        WATTBOOK_DATA_DIR=str(tmp_path / "other"),
        WATTBOOK_HTTP_PORT="eighty",
        WATTBOOK_BATCHMAX="7",
        WATTBOOK_ADMIN_PASSWORD="tooshort",
    )

    assert wrong.returncode == 1
    assert "http_port = 'eighty'" in wrong.stdout
    assert "WATTBOOK_BATCHMAX" in wrong.stdout
    assert "tooshort" not in wrong.stdout + wrong.stderr
    assert not (tmp_path / "other").exists()


def test_a_command_without_an_exchange_says_so_in_a_sentence(installation: Installation) -> None:
    alone = installation.command("wattbook", "status", WATTBOOK_HTTP_PORT="1")

    assert alone.returncode == 1
    assert "does not answer" in alone.stdout
    assert "Traceback" not in alone.stdout + alone.stderr


def _figures(installation: Installation) -> set[str]:
    """Every series that the exchange measures at the moment."""
    lines = httpx.get(f"http://127.0.0.1:{installation.metrics_port}/metrics", timeout=HUNG_SECONDS).text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("wattbook_")}
