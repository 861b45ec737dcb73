"""The rest of a frame's time: the base classifier is asked again, and a certificate becomes a promise about this input."""
