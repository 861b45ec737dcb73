"""What users bring: their code, their networks and their ONNX files, checked before they are believed."""
