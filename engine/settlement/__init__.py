"""From trades to what the chain is told: netting, parts, a Merkle tree over the trades, proofs, reconciliation."""
