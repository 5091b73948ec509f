"""Tests of how the exchange speaks to a chain."""
