"""Thin shells that give the engine time, order, durability and a mailbox; they decide nothing about the market."""
