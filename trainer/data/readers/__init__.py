"""Readers of data sets: each opens one kind without decoding any picture, and returns a `Source`."""
