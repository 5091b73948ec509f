"""What an empty database needs before anybody can trade: zones, costs, markets, rates, an admin, traders to play."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from actors.clock import clock_us
from config.markets import DEFAULT_FILE, load_markets
from config.settings import Settings
from engine.analytics.rates import EMISSION, FEED_IN, RETAIL
from engine.market import Phase
from engine.units import MICRO
from persistence.catalogue import PostgresCatalogue
from persistence.ledger import PostgresLedger
from persistence.people import PostgresPeople
from persistence.postgres import open_pool
from persistence.rates import PostgresRates
from wiring import Wiring

ADMIN_EMAIL: Final = "admin@example.org"
DEMO_TRADERS: Final = ("sunny@example.org", "amber@example.org")
BCRYPT_COST: Final = 12


async def first_rows(wiring: Wiring) -> str:
    """What an empty database needs: zones, costs, markets, the first admin, and traders to play with."""
    settings, now_us = wiring.settings, clock_us()
    pool = await open_pool(wiring.dsn, 2, "first rows")
    try:
        catalogue, people, ledger = PostgresCatalogue(pool), PostgresPeople(pool), PostgresLedger(pool)
        known = {spec.symbol for spec in await catalogue.markets()}
        planned = load_markets(Path(settings.markets_file) if settings.markets_file else DEFAULT_FILE)
        if not known:
            await catalogue.put_zones(planned.zones)
            await catalogue.put_costs(planned.costs, now_us)
            await catalogue.put_capacities(planned.capacities)
        for spec in planned.markets:
            if spec.symbol not in known:
                paths = await catalogue.paths(spec.zones, now_us)
                spec, shared = msgspec.structs.replace(spec, paths=paths), spec.symbol in planned.sharing
                await catalogue.create_market(spec, Phase.OPEN, now_us, shared=shared)
        await PostgresRates(pool).put_first(
            {
                RETAIL: _micro(settings.retail_tariff),
                FEED_IN: _micro(settings.feed_in_tariff),
                EMISSION: _micro(settings.emission_factor),
            }
        )
        if not await people.count_admins():
            if not settings.admin_password:
                write_once(settings.keys / "admin-password", secrets.token_urlsafe(18).encode())
            password = settings.admin_password or (settings.keys / "admin-password").read_text()
            await _person(people, settings, settings.admin_email or ADMIN_EMAIL, "Admin", password, "admin")
        if settings.faucet_is_open:
            path = settings.keys / "demo-password"
            write_once(path, secrets.token_urlsafe(18).encode())
            for email in DEMO_TRADERS:
                if await people.by_email(email) is None:
                    name = email.partition("@")[0].title()
                    user_id = await _person(people, settings, email, name, path.read_text(), "student")
                    for asset, amount in (
                        (settings.currency, 1_000 * MICRO),
                        (f"energy:{settings.default_zone}", 500_000),
                    ):
                        await ledger.deposit(user_id, asset, amount, f"demo:{user_id}:{asset}", now_us)
        return ", ".join(spec.symbol for spec in await catalogue.markets())
    finally:
        await pool.close()


def _micro(text: str) -> int:
    """A decimal of at most six places in millionths."""
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(6, "0"))


async def _person(people: PostgresPeople, settings: Settings, email: str, name: str, password: str, role: str) -> int:
    from gateway.auth.passwords import Passwords

    passwords = Passwords(BCRYPT_COST, 1, 1)
    try:
        hashed = await passwords.hash(password)
    finally:
        passwords.close()
    return (await people.create(email, name, hashed, role, settings.default_zone, clock_us())).user_id


def write_once(path: Path, content: bytes) -> None:
    """Make the file, for its owner only, unless it is there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
