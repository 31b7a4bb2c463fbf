"""Every number of every report: what it is, its formula, range and source; data alone, a file a topic."""
