"""From a checkpoint and pictures to attribution.json."""
