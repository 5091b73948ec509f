"""What deploy/ holds is well formed, safe, and speaks of settings, files and metrics that exist."""
