"""Reports and studies for people, from tables alone."""
