"""Export of a checkpoint to formats that others read, with a model card."""
