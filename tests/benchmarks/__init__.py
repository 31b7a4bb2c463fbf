"""Side-by-side timings, run by hand: `python -m tests.benchmarks`. Never part of the suite."""
