"""The exceptions of the edge SDK. All derive from `rrise.calibration.errors.RriseError`."""

from __future__ import annotations

from rrise.calibration.errors import RriseError


class EdgeError(RriseError):
    """Base of the edge SDK's errors."""


class BundleError(EdgeError):
    """A bundle is incomplete, changed, or its parts contradict each other. Nothing is certified from it."""


class RuntimeUnavailable(EdgeError):
    """The wanted runtime or provider is not installed or does not work on this machine."""


class RuntimeFault(EdgeError):
    """A runtime failed while running, or answered with something that no sound graph can answer."""


class FrameError(EdgeError):
    """A frame has another type, shape or content than the bundle asks for."""
