"""Who is calling: passwords, signed access tokens, sessions. Rule: secrets leave this package only as hashes."""
