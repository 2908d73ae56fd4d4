"""Export of runs to files that need no PyTorch, with a check that they give the same logits."""
