"""Models: their location, loading, input kinds, and errors of loading."""
