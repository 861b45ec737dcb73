"""The exception of the export package."""

from __future__ import annotations

from rrise.calibration.errors import RriseError


class ExportError(RriseError):
    """A model, workspace or bundle that cannot be exported; the message says what to change."""
