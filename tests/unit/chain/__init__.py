"""Tests of the chain, file by file; programs run on the virtual machine that Solana's validators use."""
