"""The tables that pass between rooms: scores, references, CERTIFY counts, cost, latency, and what they say."""
