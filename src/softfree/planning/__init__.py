"""Memory and work of a training step or an inference from formulas, before anything runs."""
