"""From a checkpoint and images to attribution.json."""
