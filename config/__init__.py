"""Settings: what they are, where they come from. Decoded and checked once, at start; only the daemon imports this."""
