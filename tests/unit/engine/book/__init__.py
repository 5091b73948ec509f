"""Tests of continuous trading, file by file."""
