"""Video files: how they are told, and the library that decodes them."""

from __future__ import annotations

from typing import Any

from rrise.calibration.errors import RecordingError
from rrise.calibration.requirements import install

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mjpg", ".mpg")


def opencv() -> Any:
    """OpenCV, which decodes videos and opens cameras. Raises: RecordingError: it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise RecordingError(
            f"OpenCV is not installed: {install('opencv-python-headless')} (on a Jetson: the system's own)"
        ) from error
    return cv2
