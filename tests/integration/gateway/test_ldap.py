"""The directory against a real OpenLDAP server: TLS or nothing, one person or nobody, and never longer than allowed.

Seen to fail for: a certificate or its name not checked, a password sent without TLS after StartTLS was refused, answers
from before TLS believed, other spellings of a name looked for, an empty password sent, locked people let in, of two
people the first taken, groups not asked, a circuit that never opens or never closes, waiting without a bound.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
import pytest
import uvloop

from engine.records import DirectoryDown, DirectoryPerson
from gateway.directory import ldap
from gateway.directory.ldap import LdapDirectory, LdapOptions
from tests.support import slapd as support
from tests.support.patience import HUNG_SECONDS
from tests.support.slapd import ADMINS, BASE, FACULTY, MEMBERS, PASSWORD, READER, TOM, Slapd

ANN = "ann@campus.example"
STARTTLS_DONE = bytes.fromhex("300c02010178070a010004000400")  # message 1, extended response, success
BIND_DONE = bytes.fromhex("300c02010261070a010004000400")  # message 2, bind response, success


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


def options(server: Slapd, **changes: Any) -> LdapOptions:
    plain = LdapOptions(
        url=server.url,
        ca_file=str(server.ca_file),
        bind_dn=READER[0],
        bind_password=READER[1],
        base_dn=BASE,
        login_attribute="mail",
        name_attribute="cn",
        id_attribute="entryUUID",
        groups={"faculty": (FACULTY,), "admin": (ADMINS,)},
        seconds_max=5.0,
    )
    return msgspec.structs.replace(plain, **changes)


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_name_and_its_password_are_somebody_over_both_kinds_of_tls(server: Slapd) -> None:
    for url in (server.url, server.tls_url):
        directory = LdapDirectory(options(server, url=url))

        ann = await directory.check(ANN, PASSWORD)

        assert ann is not None
        assert (ann.email, ann.name, ann.role) == (ANN, "Ann Example", "student")
        assert await directory.find(ann.directory_id) == ann
        assert await directory.check(ANN, PASSWORD + "x") is None
        assert await directory.check("nobody@campus.example", PASSWORD) is None
        assert await directory.check(ANN, None) is None


def test_it_works_on_the_loop_that_gateways_run_on(server: Slapd) -> None:
    async def both() -> list[DirectoryPerson | None]:
        return [
            await LdapDirectory(options(server, url=url)).check(ANN, PASSWORD) for url in (server.url, server.tls_url)
        ]

    assert None not in uvloop.run(both())


async def test_roles_come_from_groups_and_the_highest_counts(server: Slapd) -> None:
    directory = LdapDirectory(options(server))

    async def role(name: str) -> str | None:
        person = await directory.check(f"{name}@campus.example", PASSWORD)
        return person.role if person is not None else None

    assert [await role(name) for name in ("ann", "fay", "ada")] == ["student", "faculty", "admin"]
    server.set(FACULTY, "member", server.dn("fay"), server.dn("ann"), server.dn("ada"))
    assert [await role(name) for name in ("ann", "fay", "ada")] == ["faculty", "faculty", "admin"]
    server.set(FACULTY, "member", server.dn("fay"))
    assert await role("ann") == "student"


async def test_with_student_groups_only_members_of_a_group_come_in(server: Slapd) -> None:
    groups = {"student": (MEMBERS, f"cn=gone,{BASE}"), "faculty": (FACULTY,)}
    directory = LdapDirectory(options(server, groups=groups))

    found = {name: await directory.check(f"{name}@campus.example", PASSWORD) for name in ("ann", "fay", "ada")}

    assert [name for name, person in found.items() if person is not None] == ["ann", "fay"]


async def test_who_is_removed_or_locked_is_not_found(server: Slapd) -> None:
    directory = LdapDirectory(options(server))
    server.add("zoe")
    zoe = await directory.check("zoe@campus.example", PASSWORD)
    assert zoe is not None

    server.set(server.dn("zoe"), "pwdAccountLockedTime", "000001010000Z")
    assert await directory.find(zoe.directory_id) is None
    assert await directory.check("zoe@campus.example", PASSWORD) is None
    server.remove("zoe")
    assert await directory.find(zoe.directory_id) is None
    server.add("zoe")
    again = await directory.check("zoe@campus.example", PASSWORD)
    assert again is not None
    assert again.directory_id != zoe.directory_id
    server.remove("zoe")


@pytest.mark.parametrize(
    "name",
    ["*", "a*", "*)(uid=*", "ann@campus.example)(objectClass=*", "\\61nn@campus.example", "ann@campus.example\x00", ""],
)
async def test_a_name_is_a_value_and_never_a_filter(server: Slapd, name: str) -> None:
    assert await LdapDirectory(options(server)).check(name, PASSWORD) is None


async def test_an_address_full_of_signs_is_found_as_it_is(server: Slapd) -> None:
    tom = await LdapDirectory(options(server)).check(TOM, PASSWORD)

    assert tom is not None
    assert tom.email == TOM


@pytest.mark.parametrize("name", ["ann@campus.example ", "a\u00adnn@campus.example", "ANN@campus.exa\u200bmple"])
async def test_other_spellings_of_a_name_are_not_looked_for(server: Slapd, name: str) -> None:
    assert await LdapDirectory(options(server)).check(name, PASSWORD) is None


@pytest.mark.parametrize("password", ["", "\ud800"])
async def test_a_password_that_is_none_is_never_sent(server: Slapd, password: str) -> None:
    assert await LdapDirectory(options(server)).check(ANN, password) is None


async def test_of_two_people_with_one_address_neither_comes_in(server: Slapd) -> None:
    server.add("ann2", mail=ANN)

    try:
        assert await LdapDirectory(options(server)).check(ANN, PASSWORD) is None
    finally:
        server.remove("ann2")


async def test_no_password_goes_to_a_server_whose_certificate_does_not_fit(server: Slapd) -> None:
    for changes in (
        {"ca_file": str(server.other_ca_file)},
        {"url": server.tls_url, "ca_file": str(server.other_ca_file)},
        {"url": f"ldap://127.0.0.1:{server.ldap_port}"},  # the certificate says localhost
        {"url": f"ldaps://127.0.0.1:{server.ldaps_port}"},
    ):
        before = server.log.count("BIND")
        with pytest.raises(DirectoryDown) as caught:
            await LdapDirectory(options(server, **changes)).check(ANN, PASSWORD)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert server.log.count("BIND") == before


@asynccontextmanager
async def impostor(answer: bytes) -> AsyncIterator[tuple[str, bytearray]]:
    """A server that answers the first message with this, in the clear, and keeps all that it hears."""
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1_000))
        writer.write(answer)
        while more := await reader.read(1_000):
            heard.extend(more)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as listening:
        yield f"ldap://localhost:{listening.sockets[0].getsockname()[1]}", heard


@pytest.mark.parametrize(
    "answer",
    [
        bytes.fromhex("300c02010178070a010204000400"),  # protocol error: no StartTLS here
        STARTTLS_DONE + BIND_DONE,  # somebody on the line answers for the server
        STARTTLS_DONE,
        BIND_DONE,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes.fromhex("3084ffffffff"),
        bytes.fromhex("30890101"),
    ],
)
async def test_no_password_is_said_before_tls_stands(server: Slapd, answer: bytes) -> None:
    async with impostor(answer) as (url, heard):
        with pytest.raises(DirectoryDown):
            await LdapDirectory(options(server, url=url, seconds_max=1.0)).check(ANN, PASSWORD)

    assert PASSWORD.encode() not in heard
    assert READER[1].encode() not in heard


async def test_what_was_slipped_in_before_tls_is_never_read_as_an_answer(server: Slapd) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server.ldap_port)
        to_server.write(await reader.read(1_000))
        writer.write(await from_server.read(1_000) + BIND_DONE)  # in one piece, as somebody on the line would
        await asyncio.gather(relay(reader, to_server), relay(from_server, writer))

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as line:
        url = f"ldap://localhost:{line.sockets[0].getsockname()[1]}"
        assert await LdapDirectory(options(server, url=url)).check(ANN, PASSWORD) is not None


async def test_a_wrong_password_of_ours_is_an_outage_and_not_a_no(server: Slapd) -> None:
    with pytest.raises(DirectoryDown):
        await LdapDirectory(options(server, bind_password="other")).check(ANN, PASSWORD)


async def test_a_server_that_is_silent_costs_the_limit_and_then_nothing(server: Slapd) -> None:
    time = Time()
    directory = LdapDirectory(options(server, seconds_max=0.3), time)
    server.freeze()
    try:
        for _ in range(ldap.FAILURES_MAX):
            began = monotonic()
            with pytest.raises(DirectoryDown):
                await directory.check(ANN, PASSWORD)
            assert monotonic() - began > 0.25
        assert isinstance(await outcome(directory), DirectoryDown)
        connections = directory._slots._value
    finally:
        server.thaw()
    refused = await outcome(directory)
    time.now += ldap.PAUSE_SECONDS

    first, *others = await asyncio.gather(*(outcome(directory) for _ in range(3)))

    assert connections == ldap.AT_ONCE_MAX
    assert isinstance(refused, DirectoryDown)
    assert refused.__cause__ is None  # it was not asked
    assert isinstance(first, DirectoryPerson)
    assert all(isinstance(one, DirectoryDown) for one in others)  # one tries for all
    assert isinstance(await outcome(directory), DirectoryPerson)


async def test_how_many_may_ask_at_once_is_bounded(server: Slapd) -> None:
    directory = LdapDirectory(options(server, seconds_max=0.5))
    server.freeze()
    try:
        asked = [asyncio.create_task(outcome(directory)) for _ in range(ldap.WAITING_MAX + 5)]
        done, waiting = await asyncio.wait(asked, timeout=0.2)
        refused = len(done)
        await asyncio.wait_for(asyncio.gather(*waiting), HUNG_SECONDS)
    finally:
        server.thaw()

    assert refused == 5


async def test_a_server_that_is_away_is_down_and_comes_back(server: Slapd) -> None:
    directory = LdapDirectory(options(server))
    server.stop()
    try:
        with pytest.raises(DirectoryDown):
            await directory.answers()
    finally:
        server.start()

    await directory.answers()
    assert await directory.check(ANN, PASSWORD) is not None


def test_nothing_secret_shows(server: Slapd) -> None:
    assert READER[1] not in repr(options(server)) + repr(LdapDirectory(options(server)))
    with pytest.raises(FileNotFoundError):
        LdapDirectory(options(server, ca_file="/nowhere.pem"))


async def outcome(directory: LdapDirectory) -> DirectoryPerson | DirectoryDown | None:
    try:
        return await directory.check(ANN, PASSWORD)
    except DirectoryDown as error:
        return error
