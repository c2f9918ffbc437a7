"""What a map is worth: metrics of maps and of models."""
