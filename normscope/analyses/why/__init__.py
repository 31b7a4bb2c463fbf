"""The article's claims: evidence, intervals and verdicts."""
