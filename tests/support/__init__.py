"""What tests share: builders, fixtures, naive models."""
