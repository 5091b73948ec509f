"""PostgreSQL as the exchange uses it: SQL, named and typed, and the private servers of the embedded deployment.

Its one rule: it stores and finds, it does not decide or retry, and it knows neither HTTP nor Ray.
"""
