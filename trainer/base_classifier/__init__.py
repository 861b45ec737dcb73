"""The stage that trains the base classifier under noise, or takes one that was brought."""
