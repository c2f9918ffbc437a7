"""The implementations that are timed against each other."""
