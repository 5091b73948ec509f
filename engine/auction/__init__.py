"""Call auctions: one price for everybody in a zone, with a certificate by which anyone can check it."""
