"""Micro benches with pytest-benchmark: one hot operation each. `make bench` measures them, the tests run each once."""
