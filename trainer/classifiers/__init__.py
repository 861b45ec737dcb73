"""The base classifier as whoever counts sees it: a black box, or the file base.onnx."""
