"""Analyses: one module or folder for each question that a command answers."""
