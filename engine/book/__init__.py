"""Continuous trading: price-time queues, the order book, and the canonical form of its state."""
