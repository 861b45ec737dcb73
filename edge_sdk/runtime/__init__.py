"""Runtimes: what executes a graph. Each is imported only when it is asked for."""
