"""A bundle opened and checked, its probe, and scores of a loaded artefact."""
