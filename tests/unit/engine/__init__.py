"""Tests of the engine, file by file."""
