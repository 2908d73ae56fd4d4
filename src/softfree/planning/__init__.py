"""Memory and work of a training step or of inference, from formulas, before anything runs."""
