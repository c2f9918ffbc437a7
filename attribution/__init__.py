"""Where a logit comes from: the maps and their pictures."""
