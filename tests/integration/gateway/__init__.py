"""The gateway on a real PostgreSQL, over markets in memory."""
