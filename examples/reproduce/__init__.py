"""Reproduces RRISE's headline results beside the methods it replaces: `python -m examples.reproduce --help`."""
