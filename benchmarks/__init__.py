"""Attention timed side by side with its peers: `python -m benchmarks --help`, or `make bench`.

Two commits next to each other: `benchmarks.digest` for bits, `benchmarks.compare_builds` for time.
"""
