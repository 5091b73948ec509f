"""A whole exchange beside a real OpenLDAP server: log in with its password, and be out once it forgets you."""

from collections.abc import Iterator

import pytest

from tests.support import slapd as support
from tests.support.installation import Installation
from tests.support.patience import until
from tests.support.slapd import ADMINS, BASE, FACULTY, PASSWORD, READER, Slapd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    missing = support.slapd_missing()
    if missing:
        print(f"no LDAP server: {missing}")
        pytest.skip(missing)
    server = Slapd(tmp_path_factory.mktemp("slapd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def campus(server: Slapd) -> Iterator[Installation]:
    campus = Installation(
        WATTBOOK_LDAP_URL=server.url,
        WATTBOOK_LDAP_CA_FILE=str(server.ca_file),
        WATTBOOK_LDAP_BIND_DN=READER[0],
        WATTBOOK_LDAP_BIND_PASSWORD=READER[1],
        WATTBOOK_LDAP_BASE_DN=BASE,
        WATTBOOK_LDAP_FACULTY_GROUPS=f"{FACULTY}; {ADMINS}",
        WATTBOOK_LDAP_GRACE_SECONDS="0",
    )
    campus.start()
    yield campus
    campus.remove()


def test_people_of_the_directory_come_in_trade_and_are_out_when_it_forgets_them(
    campus: Installation, server: Slapd
) -> None:
    server.add("zoe")
    zoe = campus.person("zoe@campus.example", PASSWORD).login()
    fay = campus.person("fay@campus.example", PASSWORD).login()

    me = zoe.call("GET", "/users/me")
    assert (me["role"], me["source"], me["name"]) == ("student", "directory", "Zoe Example")
    assert fay.call("GET", "/users/me")["role"] == "faculty"
    zoe.call("POST", "/deposits", {"asset": "THB", "amount": "100"})
    assert zoe.place("buy", "3.000", "1.000")["status"] == "open"
    wrong = {"email": zoe.email, "password": "not-the-password-1"}
    assert campus.person().refused("POST", "/auth/login", wrong) == "UNAUTHENTICATED"

    zoe.use(zoe.call("POST", "/auth/refresh", {"refresh_token": zoe.refresh_token}))
    server.remove("zoe")
    assert zoe.refused("POST", "/auth/refresh", {"refresh_token": zoe.refresh_token}) == "UNAUTHENTICATED"
    assert zoe.refused("GET", "/users/me") == "UNAUTHENTICATED"


def test_without_its_directory_the_exchange_trades_and_says_so(campus: Installation, server: Slapd) -> None:
    ann = campus.person("ann@campus.example", PASSWORD).login()
    local = campus.person().register()
    server.stop()
    try:
        down = ann.ask("POST", "/auth/refresh", {"refresh_token": ann.refresh_token})

        assert (down.status_code, down.json()["code"]) == (503, "UNAVAILABLE")
        assert campus.ready()
        until(lambda: local.http.get(f"{campus.url}/health").json()["dependencies"]["directory"]["state"] == "down")
        local.login()
    finally:
        server.start()
    # it is left alone for a while after it failed
    refresh = {"refresh_token": ann.refresh_token}
    answer = until(lambda: ann.ask("POST", "/auth/refresh", refresh), lambda answer: answer.is_success)
    ann.use(answer.json())
    assert ann.call("GET", "/users/me")["email"] == "ann@campus.example"
