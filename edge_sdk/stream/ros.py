"""ROS image messages as frames, without ROS: anything with the fields of sensor_msgs/Image or CompressedImage."""

from __future__ import annotations

from typing import Any

from rrise.calibration.recordings.messages import Picture, picture_of
from rrise.edge_sdk.stream.captured import Captured


def from_image(message: Any) -> Captured:
    """A `sensor_msgs/Image` (rows may be padded to `step` bytes), or a `CompressedImage` with JPEG.

    Its header's stamp becomes the capture time and its frame id the frame's. A message that contradicts itself, or
    that does not say what it holds, gives a frame with a `problem`.
    """
    return captured(picture_of(message))


def captured(picture: Picture) -> Captured:
    """The picture of a message as a frame."""
    return Captured(picture.pixels, picture.time, picture.frame_id, picture.encoding, picture.problem)
