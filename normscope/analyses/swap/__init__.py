"""Replacing normalization layers, and what that does to the model."""
