"""Meters as pure rules: what a reading says, whether it counts, which window it belongs to, whom it credits."""
