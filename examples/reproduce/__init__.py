"""RRISE's published comparison as ordinary workspaces: a preparer of data sets, settings for each row, and the table."""
