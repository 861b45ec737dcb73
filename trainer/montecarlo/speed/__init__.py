"""How fast class counts are drawn."""
