"""The five programs: sources in C, interfaces (IDL) and builds. Rule: the IDL is the contract of C and Python."""
