"""Hooks: a layer's inputs and outputs, turned into its statistics."""
