"""Recordings that hold pictures: bags, MCAP files and videos. The robot replays them, and the trainer learns from them."""
