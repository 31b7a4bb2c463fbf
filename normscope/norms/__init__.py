"""Normalization layers: which modules normalise, by which formula, and where in the model."""
