"""Everything Solana. Rule: nothing here knows HTTP, Ray or SQL; who needs the chain declares what it asks of it."""
