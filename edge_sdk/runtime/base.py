"""What the rest of the SDK asks of a runtime, so that ONNX Runtime and TensorRT look alike."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Protocol, Tuple, Union

import numpy as np

from rrise.calibration.storage.execution import Execution
from rrise.edge_sdk.formats.contract import GraphSignature
from rrise.edge_sdk.runtime.device_frames import DeviceFrame


@dataclass(frozen=True)
class Outputs:
    """A graph's answers to one batch: label int64 [B], radius float32 [B], probit float32 [B], difficulty float32 [B]."""

    label: np.ndarray
    radius: np.ndarray
    probit: np.ndarray
    difficulty: Optional[np.ndarray]


@dataclass(frozen=True)
class Graph:
    """What a loaded graph says about itself: its tensors, its metadata text, and its two constants as computed.

    Attributes:
        offset: float32 values of the `offset` output.
        sigma: value of the `sigma` output.
    """

    signature: GraphSignature
    metadata: Mapping[str, str]
    offset: Tuple[float, ...]
    sigma: float


class Runtime(Protocol):
    """A loaded graph that answers batches of frames. Not to be entered by two threads at once.

    Attributes:
        execution: which computation this is, filled in from what was really loaded.
        graph: what the graph says about itself.
        note: how it runs, where that is not the usual way; may be empty.
    """

    execution: Execution
    graph: Graph
    note: str

    def run(self, frames: Union[np.ndarray, DeviceFrame], noise: Optional[np.ndarray] = None) -> Outputs:
        """Answer one batch, C-contiguous [B, ...] of the graph's dtype, with every output. Raises: RuntimeFault.

        noise: guarded tier: float32 [B, C, h, w] in 8-bit pixel levels for a replay; None draws fresh noise.
        """

    def answer(self, frames: Union[np.ndarray, DeviceFrame]) -> List[np.ndarray]:
        """As `run`, but only [label int64 [B], radius float32 [B]]: the camera loop's path.

        In the guarded tier with fresh noise for each call. The next call may overwrite both arrays.
        """

    def device_frame(self, frame: Any) -> DeviceFrame:
        """Take a frame in device memory. Raises: FrameError: this runtime cannot, or it does not fit."""

    def host_copy(self, frame: DeviceFrame) -> np.ndarray:
        """The pixels of a device frame as a batch of one in host memory."""

    def bare(self, frames: np.ndarray) -> Callable[[], object]:
        """The runtime's own call for this batch and the outputs of `answer`, without anything of ours: for `bench`."""

    def clone(self) -> "Runtime":
        """Another runtime on the same weights, for another thread. Closing one leaves the other open.

        Raises:
            RuntimeUnavailable: this runtime cannot share its weights.
        """

    def close(self) -> None:
        """Release what the runtime holds; afterwards it cannot run."""


def architecture() -> str:
    """Name of this machine's processor architecture, as in "x86_64" or "aarch64"."""
    return platform.machine() or "unknown"


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
