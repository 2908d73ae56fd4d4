"""From a run to a file that runs without PyTorch, with the proof that it gives the same logits."""
