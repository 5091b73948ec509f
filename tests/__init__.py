"""Tests: unit mirrors the source tree, property holds the laws, integration, simulation and e2e run the real parts."""
