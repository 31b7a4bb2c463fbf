"""Models: where one is, how it loads, which inputs it takes, and why it does not load."""
