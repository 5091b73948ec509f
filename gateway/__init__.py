"""HTTP and WebSocket at the edge of the exchange: translation, and nothing else.

Rule: a request becomes a command, an event becomes an answer, a refusal becomes a status. Nothing is decided here.
"""
