"""Pictures and certificates in the Rerun viewer, sent by another thread at a limited rate; rerun-sdk only when asked."""

from __future__ import annotations

import math
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import numpy as np

from rrise.calibration.requirements import install
from rrise.calibration.storage.digests import PathLike
from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.errors import EdgeError

APPLICATION = "rrise"
TIMELINE = "capture"
_MODELS = {"rgb8": "RGB", "bgr8": "BGR", "mono8": "L"}
_WAITING = 4


class RerunViewer:
    """Shows frames with their certificates. `add` copies at most `rate` frames a second and never waits.

    Args:
        encoding: of the frames: rgb8, bgr8, mono8, or float32 for [C, H, W] in [0, 1].
        file: write an .rrd file instead of opening a window.
        rate: frames per second that are shown, at most. Certificates between them are not.

    Attributes:
        dropped: frames for which there was no room. problem: why nothing is shown any more; empty while all is well.

    Raises:
        EdgeError: rerun-sdk is not installed or too old, or the window or file cannot be opened.
    """

    def __init__(
        self,
        encoding: str,
        *,
        file: Optional[PathLike] = None,
        rate: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < rate < math.inf:
            raise EdgeError(f"viewer: got a rate of {rate}, expected frames per second above 0")
        self.dropped, self.problem = 0, ""
        self._encoding, self._pause, self._clock, self._next = encoding, 1.0 / rate, clock, -math.inf
        self._rerun = _import()
        try:
            self._recording = self._rerun.RecordingStream(APPLICATION)
            if file is None:
                self._recording.spawn()
            else:
                self._recording.save(str(Path(file)))
        except Exception as error:  # rerun's own errors have no public base
            raise EdgeError(f"viewer: Rerun cannot be opened ({error}); write a file instead") from error
        self._queue: "queue.Queue[Optional[Tuple[Optional[np.ndarray], Certificate]]]" = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._show_all, name="rrise-viewer", daemon=True)
        self._thread.start()

    def add(self, frame: Optional[np.ndarray], certificate: Certificate) -> None:
        """Hand over a frame (None where there is none) and its certificate; never waits."""
        now = self._clock()
        if now < self._next or self.problem:
            return
        self._next = now + self._pause
        if self._queue.full():
            self.dropped += 1
            return
        # The only producer is this thread, so there still is room.
        self._queue.put_nowait((None if frame is None else np.array(frame), certificate))

    def close(self) -> None:
        """Show what waits, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def __enter__(self) -> "RerunViewer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _show_all(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                break
            try:
                if not self.problem:
                    self._show(*item)
            except Exception as error:  # noqa: BLE001 - a viewer that was closed must not end anything else
                self.problem = f"viewer: stopped ({error})"
        with suppress(Exception):
            self._recording.flush()
            self._recording.disconnect()

    def _show(self, frame: Optional[np.ndarray], certificate: Certificate) -> None:
        rerun, recording = self._rerun, self._recording
        recording.set_time(TIMELINE, timestamp=certificate.capture_time)
        if frame is not None:
            pixels, model = _picture(frame, self._encoding)
            recording.log("camera", rerun.Image(pixels, color_model=model))
        recording.log("certificate/radius", rerun.Scalars(certificate.radius))
        recording.log("certificate/latency_ms", rerun.Scalars(certificate.latency * 1e3))
        level = "INFO" if certificate else "WARN"
        recording.log("certificate", rerun.TextLog(certificate.to_line(), level=level))


def _picture(frame: np.ndarray, encoding: str) -> Tuple[np.ndarray, str]:
    """uint8 [H, W] or [H, W, 3] and Rerun's name of its colours."""
    if frame.dtype != np.uint8:
        levels = np.clip(np.rint(frame.transpose(1, 2, 0) * 255.0), 0, 255).astype(np.uint8)
        encoding = "mono8" if levels.shape[2] == 1 else "rgb8"
        frame = levels
    model = _MODELS[encoding]
    return (frame[:, :, 0] if model == "L" else frame), model


def _import() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise EdgeError(f"rerun-sdk is not installed: {install('rerun-sdk')}") from error
    if not hasattr(rerun, "Scalars"):
        raise EdgeError(f"viewer: this rerun-sdk is too old, expected 0.23 or newer; {install('rerun-sdk')}")
    return rerun
