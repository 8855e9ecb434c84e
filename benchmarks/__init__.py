"""Attention timed side by side with its peers: `python -m benchmarks --help`, or `make bench`."""
