"""Metrics that are exact on factorial planes."""
