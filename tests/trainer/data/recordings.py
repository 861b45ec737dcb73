"""Small videos and bags for tests of readers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "mp4v"}
SIZE = (32, 48)
"""Height and width of all pictures."""


def still(level: int) -> np.ndarray:
    """An RGB picture whose red channel is `level` (which lossy codecs keep within a few levels), green and blue are 40, 90."""
    picture = np.empty((*SIZE, 3), np.uint8)
    picture[:] = (level, 40, 90)
    return picture


def video(path: Path, levels: Iterable[int], rate: float = 10.0) -> Path:
    """A video of one `still` for each level, by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), code, rate, SIZE[::-1])
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write the video")
    for level in levels:
        writer.write(np.ascontiguousarray(still(level)[..., ::-1]))
    writer.release()
    return path


@cache
def _store(ros1: bool):
    typesys = pytest.importorskip("rosbags.typesys")
    return typesys.get_typestore(typesys.Stores.ROS1_NOETIC if ros1 else typesys.Stores.ROS2_HUMBLE)


def bag(
    path: Path,
    levels: Iterable[int],
    *,
    topics: tuple[str, ...] = ("/camera",),
    encoding: str = "rgb8",
    rate: float = 10.0,
    sizes: Iterable[int] = (),
) -> Path:
    """An .mcap file, a ROS 1 .bag or else the folder of a ROS 2 bag, with a `still` for each level on every topic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    heights = list(sizes)
    ros1 = path.suffix == ".bag"
    store = _store(ros1)
    kinds = store.types

    def message(number: int, level: int):
        pixels = still(level)[: heights[number] if heights else None]
        if encoding == "mono8":
            pixels = pixels[..., :1]
        if encoding == "bgr8":
            pixels = pixels[..., ::-1]
        count = {"seq": number} if ros1 else {}
        stamp = kinds["builtin_interfaces/msg/Time"](sec=number, nanosec=0)
        header = kinds["std_msgs/msg/Header"](**count, stamp=stamp, frame_id="front")
        data = np.ascontiguousarray(pixels).reshape(-1)
        return kinds["sensor_msgs/msg/Image"](
            header=header, height=len(pixels), width=SIZE[1], encoding=encoding, is_bigendian=0,
            step=pixels[0].size, data=data,
        )  # fmt: skip

    kind, start = "sensor_msgs/msg/Image", 1_700_000_000 * 10**9
    levels = list(levels)
    times = [start + round(number * 1e9 / rate) for number in range(len(levels))]
    if path.suffix == ".mcap":
        writers = pytest.importorskip("mcap.writer")
        with open(path, "wb") as file:
            writer = writers.Writer(file)
            writer.start()
            schema = writer.register_schema(kind, "ros2msg", b"")
            channels = [writer.register_channel(topic, "cdr", schema) for topic in topics]
            for number, level in enumerate(levels):
                data = bytes(store.serialize_cdr(message(number, level), kind))
                for channel in channels:
                    writer.add_message(channel, times[number], data, times[number])
            writer.finish()
        return path
    module = pytest.importorskip("rosbags.rosbag1" if ros1 else "rosbags.rosbag2")
    with module.Writer(path) if ros1 else module.Writer(path, version=9) as writer:
        connections = [writer.add_connection(topic, kind, typestore=store) for topic in topics]
        for number, level in enumerate(levels):
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            for connection in connections:
                writer.write(connection, times[number], serialize(message(number, level), kind))
    return path
