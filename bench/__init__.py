"""Benchmarks: each file answers one question, says why the number matters, and prints a checksum of the work done."""
