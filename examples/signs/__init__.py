"""A study on real tracks: certificates of whole clips, of one frame of each clip, and of corrupted frames."""
