"""Statistics: mergeable moments, everything computed from them, and the files that keep them."""
