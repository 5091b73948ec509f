"""Makes the database fixtures known to these tests."""

from tests.support.database import (
    database,
    empty_database,
    migrated_template,
    pool,
    postgres_dsn,
    redis_url,
    server_folder,
    valkey_server,
)

__all__ = [
    "database",
    "empty_database",
    "migrated_template",
    "pool",
    "postgres_dsn",
    "redis_url",
    "server_folder",
    "valkey_server",
]
