"""The exchange from outside: HTTP, WebSocket and the command line, as the API's description promises them."""
