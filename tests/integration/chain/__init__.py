"""The chain with real sockets and processes."""
