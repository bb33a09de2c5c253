"""Benchmarks behind ``make bench``: what the README promises, measured as ratios within one run."""
