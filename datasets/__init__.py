"""Files to batches. Knows no model."""
