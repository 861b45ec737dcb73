"""Pictures from files: the one reader of trainer and edge SDK, and whether a JPEG is whole."""
