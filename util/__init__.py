"""One concern a file: checkpoint, distributed, logging, metrics, schedule."""
