"""People whom an LDAP directory knows. Rule: no password leaves before TLS stands and the certificate was checked."""
