"""May it be released? Comparison, quality, policy and the gate itself."""
