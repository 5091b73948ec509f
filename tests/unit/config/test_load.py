"""Settings come from three places, the later wins; every wrong one is named with what is allowed; secrets stay hidden.

Seen to fail for: unknown names ignored, only the first problem said, a secret's value in its error.
"""

from pathlib import Path

import pytest

from config.load import SettingsWrong, load
from config.settings import SECRETS, Settings

SECRET = "correct horse battery"


def problems(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsWrong) as caught:
        load(environment)
    return str(caught.value)


def test_defaults_are_complete_and_are_those_that_clients_rely_on() -> None:
    settings = load({})

    assert settings.data_dir == "./var"
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8080)
    assert (settings.metrics_port, settings.ray_dashboard_port) == (9464, 8265)
    assert settings.currency == "THB"


def test_environment_beats_file_and_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('http_port = 9000\ncurrency = "EUR"\n')

    settings = load({"WATTBOOK_CONFIG": str(file), "WATTBOOK_HTTP_PORT": "9001", "HOME": "/nowhere"})

    assert (settings.http_port, settings.currency, settings.gateways) == (9001, "EUR", 1)


def test_text_of_a_variable_becomes_a_value_of_the_settings_type() -> None:
    settings = load(
        {
            "WATTBOOK_FAUCET_ENABLED": "No",
            "WATTBOOK_IDLE_RETURN_SECONDS": "2.5",
            "WATTBOOK_CORS_ORIGINS": "https://a.example, http://b.example:3000",
            "WATTBOOK_SOLANA_RPC_URLS": "",
            "WATTBOOK_LOG_LEVEL": "debug",
        }
    )

    assert settings.faucet_enabled is False
    assert settings.idle_return_seconds == 2.5
    assert settings.cors_origins == ("https://a.example", "http://b.example:3000")
    assert settings.solana_rpc_urls == ()


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("HTTP_PORT", "0", "http_port = 0 (from WATTBOOK_HTTP_PORT): must be a port number from 1 to 65535"),
        ("HTTP_PORT", "eighty", "http_port = 'eighty' (from WATTBOOK_HTTP_PORT): must be a port number"),
        ("HTTP_PORT", "80.5", "http_port = '80.5'"),
        ("CURRENCY", "thb", "currency = 'thb' (from WATTBOOK_CURRENCY): must be 3 to 10 capital letters"),
        ("FAUCET_ENABLED", "maybe", "faucet_enabled = 'maybe'"),
        ("LOG_LEVEL", "loud", "log_level = 'loud'"),
        ("RETAIL_TARIFF", "-1", "retail_tariff = '-1'"),
        ("CORS_ORIGINS", "https://*.example", "must be a list of origins"),
        ("BATCH_MAX", "0", "batch_max = 0 (from WATTBOOK_BATCH_MAX): must be a number from 1 to 10000"),
        ("IDLE_RETURN_SECONDS", "nan", "idle_return_seconds = nan"),
        ("METRICS_PORT", "8080", "http_port = 8080: metrics_port has the same"),
        ("HTTP_PROT", "1", "WATTBOOK_HTTP_PROT: there is no such setting; did you mean WATTBOOK_HTTP_PORT?"),
        ("API_KEY_PEPPER", "short", "api_key_pepper: must be at least 32 characters long"),
        ("API_KEY_DAYS", "400", "api_key_days = 400: must be at most api_key_days_max"),
        ("NONSENSE", "1", "WATTBOOK_NONSENSE: there is no such setting"),
        ("HTTP_PORT_FILE", "/x", "WATTBOOK_HTTP_PORT_FILE: there is no such setting"),
        ("CONFIG", "/does/not/exist.toml", "/does/not/exist.toml: cannot be read: No such file"),
        ("ADMIN_PASSWORD_FILE", "/does/not/exist", "WATTBOOK_ADMIN_PASSWORD_FILE = '/does/not/exist': cannot be read"),
    ],
)
def test_wrong_setting_is_named_with_its_value_and_what_is_allowed(variable: str, text: str, said: str) -> None:
    assert said in problems({f"WATTBOOK_{variable}": text})


def test_everything_wrong_is_said_at_once() -> None:
    said = problems({"WATTBOOK_HTTP_PORT": "0", "WATTBOOK_GATEWAYS": "0", "WATTBOOK_TYPO": "1"}).splitlines()

    assert len(said) == 3


def test_file_with_an_unknown_name_or_broken_syntax_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("http_prt = 1\n")
    (tmp_path / "b.toml").write_text("http_port = \n")

    assert "http_prt: there is no such setting; did you mean http_port?" in problems(
        {"WATTBOOK_CONFIG": str(tmp_path / "a.toml")}
    )
    assert "is not TOML" in problems({"WATTBOOK_CONFIG": str(tmp_path / "b.toml")})


def test_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(SECRET + "\n")

    settings = load({"WATTBOOK_ADMIN_EMAIL": "a@b.c", "WATTBOOK_ADMIN_PASSWORD_FILE": str(tmp_path / "admin")})

    assert settings.admin_password == SECRET
    assert "keep one" in problems(
        {"WATTBOOK_ADMIN_PASSWORD": SECRET, "WATTBOOK_ADMIN_PASSWORD_FILE": str(tmp_path / "admin")}
    )


def test_secrets_are_in_no_repr_and_no_error() -> None:
    environment = {
        "WATTBOOK_ADMIN_EMAIL": "a@b.c",
        "WATTBOOK_ADMIN_PASSWORD": SECRET,
        "WATTBOOK_DATABASE_URL": f"postgresql://user:{SECRET.replace(' ', '')}@host/db",
    }

    settings = load(environment)
    wrong = problems(
        {**environment, "WATTBOOK_DATABASE_URL": f"mysql://{SECRET}", "WATTBOOK_ADMIN_PASSWORD": "short-1"}
    )

    for shown in (repr(settings), str(settings.shown()), wrong):
        assert SECRET not in shown
        assert SECRET.replace(" ", "") not in shown
        assert "short-1" not in shown
    assert "database_url (from WATTBOOK_DATABASE_URL): must be a postgresql:// address" in wrong


def test_password_of_the_first_admin_has_the_length_of_any_other() -> None:
    assert "12 to 128" in problems({"WATTBOOK_ADMIN_EMAIL": "a@b.c", "WATTBOOK_ADMIN_PASSWORD": "short"})
    assert "needs admin_email" in problems({"WATTBOOK_ADMIN_PASSWORD": SECRET})


def test_cluster_needs_a_secret_of_its_own() -> None:
    assert "cluster_secret" in problems({"WATTBOOK_RAY_ADDRESS": "ray://head:10001"})


def test_every_secret_is_a_setting() -> None:
    assert set(Settings.__struct_fields__) >= SECRETS


def test_the_faucet_never_opens_beside_a_real_chain() -> None:
    alone = load({})
    beside_a_chain = load({"WATTBOOK_SOLANA_RPC_URLS": "https://rpc.example.org"})
    switched_off = load({"WATTBOOK_FAUCET_ENABLED": "false"})

    assert (alone.faucet_is_open, beside_a_chain.faucet_is_open, switched_off.faucet_is_open) == (True, False, False)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("WATTBOOK_CORS_ORIGINS", "https://App.example", "in lower case"),
        ("WATTBOOK_CORS_ORIGINS", "https://app.example/", "without a path"),
        ("WATTBOOK_CORS_ORIGINS", "null", "a list of origins"),
        ("WATTBOOK_CORS_ORIGINS", "*", "a list of origins"),
        ("WATTBOOK_CORS_ORIGINS", "https://*.example", "a list of origins"),
        ("WATTBOOK_CORS_ORIGINS", "https://app.example:443", "would never match"),
        ("WATTBOOK_CORS_ORIGINS", "http://app.example:80", "would never match"),
        ("WATTBOOK_TRUSTED_PROXIES", "proxy.example", "a list of addresses or networks"),
        ("WATTBOOK_TRUSTED_PROXIES", "10.0.0.1/8", "has host bits set"),
        ("WATTBOOK_TRUSTED_PROXIES", "10.0.0.300", "trusted_proxies"),
    ],
)
def test_origins_and_proxies_that_could_never_match_are_refused(variable: str, text: str, said: str) -> None:
    with pytest.raises(SettingsWrong) as wrong:
        load({variable: text})

    assert said in str(wrong.value)


def test_origins_and_proxies_are_lists() -> None:
    settings = load(
        {
            "WATTBOOK_CORS_ORIGINS": "https://app.example, http://[::1]:3000",
            "WATTBOOK_TRUSTED_PROXIES": "10.0.0.0/8,::1",
        }
    )

    assert settings.cors_origins == ("https://app.example", "http://[::1]:3000")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
