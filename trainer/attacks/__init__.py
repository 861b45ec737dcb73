"""False certificates under an L2 attack."""
