"""Whole slides read level by level and tile by tile."""
