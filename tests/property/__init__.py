"""Laws that hold whatever is thrown at the engine; each was seen to fail on a planted bug."""
