"""What an operator can say: one file for each group of commands, each with its own `app`; cli.py joins them."""
