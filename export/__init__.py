"""Export: lowers a surrogate to ONNX, calibrates each precision on its own, gates it and writes the bundle."""

from rrise.export.pipeline import ExportResult, GateFailed, export_onnx, export_source
from rrise.names import stand_in

__all__ = ["ExportResult", "GateFailed", "export_onnx", "export_source"]

if __name__ != "rrise.export":  # found in a checkout by the folder's own name
    stand_in(__name__)
