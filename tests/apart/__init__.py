"""Tests with an exchange of their own: they would disturb any other, or want one that is set up otherwise."""
