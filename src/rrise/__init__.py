"""rrise: certified robustness for robots. Everything is below this root: calibration, edge_sdk, export, trainer."""

import os as _os

# ONNX Runtime 1.31 writes a data base into the home folder, starts a thread and looks up a host of its vendor's as soon as it is
# imported; only this variable, set before that, stops it. Who wants it can set the variable to 0 beforehand.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
