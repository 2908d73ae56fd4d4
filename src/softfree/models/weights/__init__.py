"""Weights: files, names, positions and channels brought to a model."""
