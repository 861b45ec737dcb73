"""Export: lowers a calibrated surrogate to ONNX, calibrates each precision, gates it and writes the bundle."""
