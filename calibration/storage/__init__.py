"""Files, digests and logs: how artefacts are written, named and bound to each other."""
