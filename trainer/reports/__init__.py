"""What a workspace shows to people: its page, which every stage updates, and the full report."""
