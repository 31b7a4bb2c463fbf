"""Runs: forward passes batch by batch, with checkpoints, progress, stops and out-of-memory handling."""
