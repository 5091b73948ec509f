"""Users and sessions: one address one user, one refresh token once.

Seen to fail for: rotation without the old hash, a reused token that leaves its family alive, windows that never end.
"""

import asyncio

import asyncpg
import pytest
import pytest_asyncio

from engine.records import DirectoryPerson, EmailTaken, RotateOutcome, UserRecord, ZoneRecord
from persistence.catalogue import PostgresCatalogue, UnknownZone
from persistence.people import NO_PASSWORD, SESSIONS_KEPT_US, PostgresPeople


@pytest_asyncio.fixture
async def people(pool: asyncpg.Pool) -> PostgresPeople:
    await PostgresCatalogue(pool).put_zones([ZoneRecord("Z1", "One"), ZoneRecord("Z2", "Two")])
    return PostgresPeople(pool)


async def make(people: PostgresPeople, email: str = "a@example.org", role: str = "student") -> UserRecord:
    return await people.create(email, "Ann Lee", b"hash", role, "Z1", 5)


async def test_first_user_is_number_1001_and_comes_back_whole(people: PostgresPeople) -> None:
    user = await make(people)

    assert user == UserRecord(1001, "a@example.org", "Ann Lee", "student", "active", "Z1", b"hash", 5)
    assert await people.by_email("a@example.org") == user
    assert await people.by_id(1001) == user
    assert await people.by_id(9) is None
    assert await people.by_email("other@example.org") is None


async def test_address_belongs_to_one_user(people: PostgresPeople) -> None:
    done = await asyncio.gather(*(make(people) for _ in range(5)), return_exceptions=True)

    assert sum(isinstance(each, EmailTaken) for each in done) == 4


async def test_zone_must_exist(people: PostgresPeople) -> None:
    user = await make(people)

    with pytest.raises(UnknownZone):
        await people.create("b@example.org", "B", b"h", "student", "Z9", 5)
    with pytest.raises(UnknownZone):
        await people.update(user.user_id, zone="Z9")


async def test_update_changes_only_what_is_given(people: PostgresPeople) -> None:
    user = await make(people)

    changed = await people.update(user.user_id, role="admin", zone="Z2")
    await people.set_password(user.user_id, b"other")

    assert changed is not None
    assert (changed.name, changed.role, changed.status, changed.zone) == ("Ann Lee", "admin", "active", "Z2")
    again = await people.by_id(user.user_id)
    assert again is not None
    assert again.password_hash == b"other"
    assert await people.update(9, name="x") is None
    assert await people.count_admins() == 1
    await people.update(user.user_id, status="suspended")
    assert await people.count_admins() == 0


async def test_search_finds_parts_of_name_and_address_page_by_page(people: PostgresPeople) -> None:
    users = [await make(people, f"user{n}@example.org") for n in range(5)]

    assert await people.search("", 0, 3) == users[:3]
    assert await people.search("", users[2].user_id, 3) == users[3:]
    assert await people.search("USER3", 0, 10) == [users[3]]
    assert await people.search("ann lee", 0, 10) == users
    assert await people.search("%", 0, 10) == []


async def test_refresh_token_is_good_once(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user.user_id, b"1", 10, 100)

    assert await people.rotate_session("s1", b"1", b"2", 11, 110) is RotateOutcome.OK
    assert await people.rotate_session("s1", b"2", b"3", 12, 120) is RotateOutcome.OK
    assert [(s.used_us, s.expires_us) for s in await people.sessions(user.user_id, 13)] == [(12, 120)]


async def test_reused_token_ends_the_family(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user.user_id, b"1", 10, 100)
    await people.rotate_session("s1", b"1", b"2", 11, 110)

    assert await people.rotate_session("s1", b"1", b"x", 12, 120) is RotateOutcome.REUSED
    assert await people.rotate_session("s1", b"2", b"3", 13, 120) is RotateOutcome.UNKNOWN
    assert await people.sessions(user.user_id, 13) == []
    assert await people.ended_sessions(12) == ["s1"]
    assert await people.ended_sessions(13) == []


async def test_two_at_the_same_time_with_one_token_never_both_win(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user.user_id, b"1", 10, 100)

    done = await asyncio.gather(*(people.rotate_session("s1", b"1", bytes([n]) * 8, 11, 110) for n in range(6)))

    assert sorted(done) == [RotateOutcome.OK, RotateOutcome.REUSED, *[RotateOutcome.UNKNOWN] * 4]


async def test_expired_or_unknown_session_does_not_rotate(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user.user_id, b"1", 10, 100)

    assert await people.rotate_session("s1", b"1", b"2", 100, 200) is RotateOutcome.UNKNOWN
    assert await people.rotate_session("s9", b"1", b"2", 11, 200) is RotateOutcome.UNKNOWN


async def test_ending_all_sessions_may_spare_one(people: PostgresPeople) -> None:
    user = await make(people)
    for n in range(3):
        await people.open_session(f"s{n}", user.user_id, b"1", 10 + n, 100)

    assert await people.end_sessions(user.user_id, 20, except_id="s1") == 2
    assert [s.session_id for s in await people.sessions(user.user_id, 21)] == ["s1"]
    assert await people.end_session("s1", 22) is True
    assert await people.end_session("s1", 23) is False


async def test_sessions_that_expired_long_ago_are_swept(people: PostgresPeople, pool: asyncpg.Pool) -> None:
    user = await make(people)
    await people.open_session("old", user.user_id, b"1", 10, 100)
    await people.open_session("new", user.user_id, b"1", SESSIONS_KEPT_US, SESSIONS_KEPT_US + 200)

    await people.open_session("newest", user.user_id, b"1", SESSIONS_KEPT_US + 101, SESSIONS_KEPT_US + 300)

    kept = {row[0] for row in await pool.fetch("SELECT session_id FROM sessions")}
    assert kept == {"new", "newest"}


async def test_login_failures_count_in_a_window_that_ends(people: PostgresPeople) -> None:
    counted = await asyncio.gather(*(people.add_login_failure("a@example.org", 10, 100) for _ in range(5)))

    assert sorted(counted) == [(n, 110) for n in range(1, 6)]
    assert await people.login_failures("a@example.org", 109) == (5, 110)
    assert await people.login_failures("a@example.org", 110) == (0, 0)
    assert await people.add_login_failure("a@example.org", 110, 100) == (1, 210)
    await people.forget_login_failures("a@example.org", 120)
    assert await people.login_failures("a@example.org", 120) == (0, 0)


async def test_people_of_the_directory_are_known_by_its_identity(people: PostgresPeople) -> None:
    fay = DirectoryPerson(b"id-1", "fay@example.org", "Fay", "faculty")

    done = await asyncio.gather(*(people.admit(fay, "Z1", 10 + n) for n in range(5)))
    renamed = await people.admit(DirectoryPerson(b"id-1", "fay.new@example.org", "Fay New", "student"), "Z2", 50)

    assert {user.user_id for user in done} == {renamed.user_id}
    assert (renamed.source, renamed.directory_id, renamed.confirmed_us) == ("directory", b"id-1", 50)
    assert (renamed.email, renamed.name, renamed.role, renamed.zone) == (
        "fay.new@example.org",
        "Fay New",
        "student",
        "Z1",
    )
    assert renamed.password_hash == NO_PASSWORD
    assert await people.by_id(renamed.user_id) == renamed


async def test_the_directory_takes_nobodys_address(people: PostgresPeople) -> None:
    local = await make(people)
    await people.admit(DirectoryPerson(b"id-1", "fay@example.org", "Fay", "student"), "Z1", 10)

    with pytest.raises(EmailTaken):
        await people.admit(DirectoryPerson(b"id-2", "a@example.org", "Eve", "admin"), "Z1", 10)
    moved = await people.admit(DirectoryPerson(b"id-1", "a@example.org", "Fay", "student"), "Z1", 20)
    with pytest.raises(UnknownZone):
        await people.admit(DirectoryPerson(b"id-3", "new@example.org", "New", "student"), "Z9", 10)

    assert moved.email == "fay@example.org"
    assert await people.by_id(local.user_id) == local
