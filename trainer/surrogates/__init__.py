"""The stage that trains the surrogate, and its difficulty head."""
