"""Inputs: texts, files, datasets, images and sounds, and the batches made of them."""
