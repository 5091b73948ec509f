"""A Solana of one node on this machine: RPC and WebSocket before LiteSVM. Rule: nothing outside knows of it."""
