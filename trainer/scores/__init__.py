"""The PyTorch execution: its scores, the choice of map and plan, and its calibration."""
