"""What the actors decide without a server."""
