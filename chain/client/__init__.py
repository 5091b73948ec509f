"""How the exchange speaks to a chain, ours or any cluster: programs by their IDL, endpoints, signers, transactions."""
