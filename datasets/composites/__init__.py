"""Composites: cut-outs of real things on other backgrounds, whose object masks are known exactly."""
