"""What every test may use: real servers, fresh databases. See support/."""

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
