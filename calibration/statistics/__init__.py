"""Exact statistics on counts: levels, ranks, bounds, probits, sequential tests, drift."""
