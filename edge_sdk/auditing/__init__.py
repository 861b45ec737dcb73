"""Audits on a running robot: a separate, slow process asks the base classifier whether certificates are right."""
