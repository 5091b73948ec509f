"""Tests of the five programs on the virtual machine."""
