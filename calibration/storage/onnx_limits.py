"""Which ONNX this project writes: what every runtime on a robot takes, JetPack 6 included."""

OPSET = 18
MAX_IR_VERSION = 10
