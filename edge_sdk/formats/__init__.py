"""What is written where: ONNX contract, manifest, sealed records, signatures, recorded noise."""
