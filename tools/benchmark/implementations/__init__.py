"""The implementations that are measured against each other."""
