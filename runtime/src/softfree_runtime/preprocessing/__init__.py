"""Preprocessing for exported models, in numpy."""
