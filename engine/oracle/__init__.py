"""Values from outside the exchange: what providers sign, and what a round of them comes to."""
