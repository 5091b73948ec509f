"""Of the load generator: when requests leave, and what is told of their answers."""
