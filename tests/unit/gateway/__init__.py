"""The gateway, in process: the real application with real order books behind small ports."""
