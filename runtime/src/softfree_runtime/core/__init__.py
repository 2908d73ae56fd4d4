"""Shared basics: errors, atomic files, tasks, probabilities, batches. Nothing here imports torch or pandas."""
