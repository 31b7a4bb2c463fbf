"""Measurements of a training: callbacks of trainers, and the track of their windows over steps."""
