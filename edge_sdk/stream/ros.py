"""ROS image messages as frames, without ROS: anything with the fields of sensor_msgs/Image or CompressedImage."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np

from rrise.edge_sdk.stream.captured import Captured

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "8UC1": 1, "8UC3": 3, "yuv422": 2, "yuv422_yuy2": 2, "nv12": 1}
_NAMES = {"8UC1": "mono8", "8UC3": "bgr8", "uyvy": "yuv422", "yuyv": "yuv422_yuy2"}


def from_image(message: Any) -> Captured:
    """A `sensor_msgs/Image` (rows may be padded to `step` bytes), or a `CompressedImage` with JPEG.

    Its header's stamp becomes the capture time and its frame id the frame's. A message that contradicts itself gives a
    frame with a `problem`.
    """
    when, frame_id = _header(message)
    if not hasattr(message, "encoding"):
        form = str(getattr(message, "format", "")).lower()
        if "jpeg" not in form and "jpg" not in form:
            return Captured(
                None, when, frame_id, problem=f"compressed image: got format {form!r}, expected jpeg"
            )
        return Captured(bytes(bytearray(message.data)), when, frame_id, "jpeg")
    encoding = _NAMES.get(message.encoding, message.encoding)
    pixels = _pixels(message, encoding)
    if pixels is None:
        size = f"{message.width} x {message.height}, step {message.step}, {len(message.data)} bytes"
        problem = f"image message: got {message.encoding} of {size}; expected one of {', '.join(_CHANNELS)} that fits its step"
        return Captured(None, when, frame_id, problem=problem)
    return Captured(pixels, when, frame_id, encoding)


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
