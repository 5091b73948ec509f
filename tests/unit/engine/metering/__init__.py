"""Tests of the rules of meters, file by file."""
