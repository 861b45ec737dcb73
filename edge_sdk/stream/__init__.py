"""Streams: from a camera, a file or a bag to one certificate per frame, late and unusable frames included."""
