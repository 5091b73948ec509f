"""Tests of analytics: each has an example that was computed by hand."""
