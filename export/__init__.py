"""Export: lowers a surrogate to ONNX, calibrates each precision on its own, gates it and writes the bundle."""

from rrise.export.pipeline import ExportResult, GateFailed, export_onnx, export_source

__all__ = ["ExportResult", "GateFailed", "export_onnx", "export_source"]
