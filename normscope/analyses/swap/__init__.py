"""Replacements of normalization layers, and their effects on the model."""
