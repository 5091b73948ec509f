"""Users and sessions: one address one user, one refresh token once.

Seen to fail for: rotation without the old hash, a reused token that leaves its family alive, counters that never end
or end with the first failure, demotions that do not take turns, a role that changes and leaves its sessions alive.
"""

import asyncio

import asyncpg
import pytest
import pytest_asyncio

from engine.audit import Origin
from engine.records import DirectoryPerson, EmailTaken, LastAdmin, RotateOutcome, UserRecord, ZoneRecord
from persistence.audit_log import PostgresAuditLog
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
        await people.update(user.user_id, zone="Z9", now_us=6)


async def test_update_changes_only_what_is_given(people: PostgresPeople) -> None:
    user = await make(people)

    changed = await people.update(user.user_id, role="admin", zone="Z2", now_us=6)
    await people.set_password(user.user_id, b"other", "", 7)

    assert changed is not None
    assert (changed.name, changed.role, changed.status, changed.zone) == ("Ann Lee", "admin", "active", "Z2")
    again = await people.by_id(user.user_id)
    assert again is not None
    assert again.password_hash == b"other"
    assert await people.update(9, name="x", now_us=6) is None
    assert await people.count_admins() == 1


async def test_search_finds_parts_of_name_and_address_page_by_page(people: PostgresPeople) -> None:
    users = [await make(people, f"user{n}@example.org") for n in range(5)]

    assert await people.search("", 0, 3) == users[:3]
    assert await people.search("", users[2].user_id, 3) == users[3:]
    assert await people.search("USER3", 0, 10) == [users[3]]
    assert await people.search("ann lee", 0, 10) == users
    assert await people.search("%", 0, 10) == []


async def test_refresh_token_is_good_once(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user, b"1", 10, 100)

    assert await people.rotate_session("s1", b"1", b"2", 11, 110) is RotateOutcome.OK
    assert await people.rotate_session("s1", b"2", b"3", 12, 120) is RotateOutcome.OK
    assert [(s.used_us, s.expires_us) for s in await people.sessions(user.user_id, 13)] == [(12, 120)]


async def test_reused_token_ends_the_family(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user, b"1", 10, 100)
    await people.rotate_session("s1", b"1", b"2", 11, 110)

    assert await people.rotate_session("s1", b"1", b"x", 12, 120) is RotateOutcome.REUSED
    assert await people.rotate_session("s1", b"2", b"3", 13, 120) is RotateOutcome.UNKNOWN
    assert await people.sessions(user.user_id, 13) == []
    assert await people.ended_sessions(12) == ["s1"]
    assert await people.ended_sessions(13) == []


async def test_two_at_the_same_time_with_one_token_never_both_win(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user, b"1", 10, 100)

    done = await asyncio.gather(*(people.rotate_session("s1", b"1", bytes([n]) * 8, 11, 110) for n in range(6)))

    assert sorted(done) == [RotateOutcome.OK, RotateOutcome.REUSED, *[RotateOutcome.UNKNOWN] * 4]


async def test_expired_or_unknown_session_does_not_rotate(people: PostgresPeople) -> None:
    user = await make(people)
    await people.open_session("s1", user, b"1", 10, 100)

    assert await people.rotate_session("s1", b"1", b"2", 100, 200) is RotateOutcome.UNKNOWN
    assert await people.rotate_session("s9", b"1", b"2", 11, 200) is RotateOutcome.UNKNOWN


async def test_ending_all_sessions_may_spare_one(people: PostgresPeople) -> None:
    user = await make(people)
    for n in range(3):
        await people.open_session(f"s{n}", user, b"1", 10 + n, 100)

    assert await people.end_sessions(user.user_id, 20, except_id="s1") == ["s0", "s2"]
    assert [s.session_id for s in await people.sessions(user.user_id, 21)] == ["s1"]
    assert await people.end_session("s1", 22, user_id=9) is False
    assert await people.end_session("s1", 22, user_id=user.user_id) is True
    assert await people.end_session("s1", 23) is False


async def test_of_too_many_sessions_the_longest_unused_end(
    people: PostgresPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = await make(people), await make(people, "b@example.org")
    monkeypatch.setattr("persistence.people.SESSIONS_MAX", 3)
    await people.open_session("theirs", other, b"1", 1, 100)

    for n in range(5):
        await people.open_session(f"s{n}", user, b"1", 10 + n, 100)

    assert [s.session_id for s in await people.sessions(user.user_id, 21)] == ["s4", "s3", "s2"]
    assert await people.ended_sessions(10) == ["s1", "s0"]
    assert len(await people.sessions(other.user_id, 21)) == 1


async def test_sessions_that_expired_long_ago_are_swept(people: PostgresPeople, pool: asyncpg.Pool) -> None:
    user = await make(people)
    await people.open_session("old", user, b"1", 10, 100)
    await people.open_session("new", user, b"1", SESSIONS_KEPT_US, SESSIONS_KEPT_US + 200)

    await people.open_session("newest", user, b"1", SESSIONS_KEPT_US + 101, SESSIONS_KEPT_US + 300)

    kept = {row[0] for row in await pool.fetch("SELECT session_id FROM sessions")}
    assert kept == {"new", "newest"}


async def test_a_session_is_not_opened_for_who_changed_since_he_was_looked_at(people: PostgresPeople) -> None:
    user, other = await make(people), await make(people, "b@example.org")
    await people.set_password(user.user_id, b"new", "", 6)
    await people.update(other.user_id, status="suspended", now_us=6)

    assert await people.open_session("s1", user, b"1", 10, 100) is False
    assert await people.open_session("s2", other, b"1", 10, 100) is False
    assert await people.sessions(user.user_id, 11) == await people.sessions(other.user_id, 11) == []


@pytest.mark.parametrize(("role", "status"), [("faculty", None), (None, "suspended")])
async def test_another_role_or_status_ends_the_sessions(
    people: PostgresPeople, role: str | None, status: str | None
) -> None:
    user = await make(people)
    await people.open_session("s1", user, b"1", 10, 100)

    await people.update(user.user_id, name="Ann B.", zone="Z2", role="student", now_us=20)
    kept = await people.sessions(user.user_id, 21)
    await people.update(user.user_id, role=role, status=status, now_us=30)

    assert [session.session_id for session in kept] == ["s1"]
    assert await people.sessions(user.user_id, 31) == []
    assert await people.ended_sessions(30) == ["s1"]


async def test_a_new_password_ends_all_sessions_but_one(people: PostgresPeople) -> None:
    user = await make(people)
    for n in range(3):
        await people.open_session(f"s{n}", user, b"1", 10 + n, 100)

    await people.set_password(user.user_id, b"new", "s1", 20)

    assert [session.session_id for session in await people.sessions(user.user_id, 21)] == ["s1"]


async def test_there_is_always_an_admin_who_can_act(people: PostgresPeople, pool: asyncpg.Pool) -> None:
    boss, idle = await make(people, role="admin"), await make(people, "b@example.org", "admin")
    await people.update(idle.user_id, status="suspended", now_us=6)

    for role, status in (("student", None), (None, "suspended")):
        with pytest.raises(LastAdmin):
            await people.update(boss.user_id, role=role, status=status, now_us=7)
    with pytest.raises(asyncpg.RestrictViolationError, match="last admin"):
        await pool.execute("DELETE FROM users WHERE user_id = $1", boss.user_id)

    assert await people.count_admins() == 1
    assert await people.by_id(boss.user_id) == boss


async def test_admins_who_demote_each_other_at_once_leave_one(people: PostgresPeople) -> None:
    for turn in range(5):
        bosses = [await make(people, f"{turn}-{n}@example.org", "admin") for n in range(4)]
        # none of those before is left to count on
        await asyncio.gather(
            *(people.update(boss.user_id, role="student", now_us=7) for boss in bosses), return_exceptions=True
        )
        left = [boss for boss in bosses if (found := await people.by_id(boss.user_id)) and found.role == "admin"]

        assert await people.count_admins() == 1
        assert len(left) <= 1


async def test_search_by_role_and_status(people: PostgresPeople) -> None:
    ann, bob = await make(people), await make(people, "b@example.org", "faculty")
    await people.update(bob.user_id, status="suspended", now_us=6)

    async def found(role: str | None, status: str | None) -> list[int]:
        return [user.user_id for user in await people.search("", 0, 10, role, status)]

    assert await found("faculty", None) == [bob.user_id]
    assert await found(None, "active") == [ann.user_id]
    assert await found("faculty", "active") == []


async def test_login_failures_count_until_some_time_after_the_last(people: PostgresPeople) -> None:
    counted = await asyncio.gather(*(people.add_login_failure("key", None, 10, 100, 5) for _ in range(4)))
    fifth = await people.add_login_failure("key", None, 60, 100, 5)

    assert sorted(counted) == [1, 2, 3, 4]
    assert fifth == 5
    assert await people.login_failures("key", 159) == (5, 160)
    assert await people.login_failures("key", 160) == (0, 0)
    assert await people.add_login_failure("key", None, 160, 100, 5) == 1
    await people.forget_login_failures("key")
    assert await people.login_failures("key", 161) == (0, 0)


async def test_counters_that_have_ended_are_swept(people: PostgresPeople, pool: asyncpg.Pool) -> None:
    await people.add_login_failure("old", None, 10, 100, 5)

    await people.add_login_failure("new", None, 110, 100, 5)

    assert [row[0] for row in await pool.fetch("SELECT subject FROM login_failures")] == ["new"]


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


async def test_what_the_directory_changes_is_audited_and_never_takes_the_last_admin(
    people: PostgresPeople, pool: asyncpg.Pool
) -> None:
    origin = Origin("anonymous", request_id="r1")
    ada = await people.admit(DirectoryPerson(b"id-1", "ada@example.org", "Ada", "admin"), "Z1", 10, origin)
    await people.admit(DirectoryPerson(b"id-1", "ada@example.org", "Ada", "admin"), "Z1", 20, origin)

    with pytest.raises(LastAdmin):
        await people.admit(DirectoryPerson(b"id-1", "ada@example.org", "Ada", "student"), "Z1", 30, origin)
    await people.admit(DirectoryPerson(b"id-1", "ada@example.org", "Ada L.", "admin"), "Z1", 40, origin)

    rows = await PostgresAuditLog(pool).find(1_000, 2)
    assert [(row.action, row.subject) for row in rows] == [
        ("user.changed", f"user:{ada.user_id}"),
        ("user.admitted", f"user:{ada.user_id}"),
    ]
    assert (rows[0].before, rows[0].after) == ('{"name":"Ada"}', '{"name":"Ada L."}')
    assert await people.open_session("s1", ada, b"1", 50, 100) is True
