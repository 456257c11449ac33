"""Measurements: ours and the peer's in turns in one run, medians and ratios. `make bench` runs them all."""
