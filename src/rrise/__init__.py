"""rrise: certified robustness for robots. Everything is below this root: calibration, edge_sdk, export, trainer."""
