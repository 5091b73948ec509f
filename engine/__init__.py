"""The exchange's rules as pure functions and state machines: same input, same output, for ever.

Nothing here waits, reads a clock, draws a random number, logs, or knows Ray, SQL or HTTP.
"""
