"""The shells on a real database and real sockets."""
