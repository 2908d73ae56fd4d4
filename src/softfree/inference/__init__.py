"""The run directory, the trained model in it, and predictions."""
