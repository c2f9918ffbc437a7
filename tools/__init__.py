"""Command lines: thin layers over models, datasets and attribution."""
