"""The real shells in one process, on a clock of their own and a world that fails by seed."""
