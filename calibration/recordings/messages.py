"""ROS image messages as frames, without ROS: anything with the fields of sensor_msgs/Image or CompressedImage.

What a message holds is read from its encoding or format, by the names of sensor_msgs and the convention of
image_transport, and nothing is guessed: a Bayer mosaic, a depth map or a map of labels is no picture, and 8UC1 or 8UC3
say neither what is in them nor in which order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_CHANNELS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "yuv422": 2,
    "yuv422_yuy2": 2,
    "nv12": 1,
}
_NAMES = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
_COLOURS = ("rgb8", "bgr8", "rgba8", "bgra8")
_UNKNOWN = {
    "8UC1": "it may be labels, heat or depth; publish a picture as mono8",
    "8UC3": "the order of its channels is not said; publish it as rgb8 or bgr8",
    "8UC4": "the order of its channels is not said; publish it as rgba8 or bgra8",
}


@dataclass(frozen=True)
class Picture:
    """What an image message holds.

    Attributes:
        pixels: an array, or the bytes of a JPEG, as `encoding` says; None where they cannot be used.
        time: seconds of the header's stamp.
        frame_id: of the header.
        encoding: one of `rrise.calibration.images.encodings.known_encodings`; None where there are no pixels.
        problem: why the picture cannot be used; empty if it can.
    """

    pixels: Any
    time: float
    frame_id: str
    encoding: Optional[str] = None
    problem: str = ""


def picture_of(message: Any) -> Picture:
    """A `sensor_msgs/Image` (rows may be padded to `step` bytes), or a `CompressedImage` with JPEG.

    A message that contradicts itself, or that does not say what it holds, gives a picture with a `problem`.
    """
    when, frame_id = _header(message)
    if not hasattr(message, "encoding"):
        form = str(getattr(message, "format", ""))
        encoding = _compressed(form)
        if encoding is None:
            problem = (
                f"compressed image: got format {form!r}, expected 'jpeg', or 'ENCODING; jpeg compressed bgr8' with one of"
                f" {', '.join(_COLOURS)}, or 'mono8; jpeg compressed'; what else it may hold is no picture of this bundle"
            )
            return Picture(None, when, frame_id, problem=problem)
        return Picture(bytes(bytearray(message.data)), when, frame_id, encoding)
    encoding = _NAMES.get(message.encoding, message.encoding)
    pixels = _pixels(message, encoding)
    if pixels is None:
        size = f"{message.width} x {message.height}, step {message.step}, {len(message.data)} bytes"
        why = _UNKNOWN.get(encoding)
        problem = f"image message: got {message.encoding} of {size}; expected one of {', '.join(_CHANNELS)} that fits its step"
        return Picture(None, when, frame_id, problem=f"{problem} ({why})" if why else problem)
    return Picture(pixels, when, frame_id, encoding)


def _compressed(form: str) -> Optional[str]:
    """What a `format` says of the JPEG, as an encoding of ours; None: no picture, or not said.

    image_transport writes "ENCODING; jpeg compressed TARGET": the image had ENCODING and was brought to TARGET before
    OpenCV, which takes bgr8, made a JPEG of it. Where TARGET is rgb8, red and blue lie exchanged in the file. Cameras
    and older releases write "jpeg" alone.
    """
    encoding, found, rest = form.partition(";")
    encoding, words = encoding.strip(), rest.split()
    if not found:
        return "jpeg" if encoding.lower() in ("jpeg", "jpg") else None
    if words[:2] != ["jpeg", "compressed"]:
        return None
    target = words[2:]
    if encoding == "mono8" and target in ([], ["mono8"]):
        return "jpeg"
    if encoding in _COLOURS and target == ["bgr8"]:
        return "jpeg"
    return "jpeg_swapped" if encoding in _COLOURS and target == ["rgb8"] else None


def _header(message: Any) -> Tuple[float, str]:
    stamp = message.header.stamp
    nanoseconds = getattr(stamp, "nanosec", getattr(stamp, "nsecs", 0))
    return float(getattr(stamp, "sec", getattr(stamp, "secs", 0))) + nanoseconds * 1e-9, str(
        message.header.frame_id
    )


def _pixels(message: Any, encoding: str) -> Optional[np.ndarray]:
    channels = _CHANNELS.get(encoding)
    height, width, step = int(message.height), int(message.width), int(message.step)
    rows = height * 3 // 2 if encoding == "nv12" else height
    data = message.data
    array = data if isinstance(data, np.ndarray) else np.frombuffer(bytes(data), np.uint8)
    if channels is None or min(height, width) < 1 or step < width * channels or array.size < rows * step:
        return None
    image = array.view(np.uint8)[: rows * step].reshape(rows, step)[:, : width * channels]
    return image if encoding == "nv12" else image.reshape(height, width, channels)
