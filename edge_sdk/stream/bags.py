"""Image messages of ROS 1 and ROS 2 bags and of MCAP files, without a ROS installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from rrise.calibration.requirements import install
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.stream.captured import Captured
from rrise.edge_sdk.stream.ros import IMAGE_TYPES, from_image


def open_bag(path: Path, topic: Optional[str]) -> Iterator[Captured]:
    """Frames of one image topic, in the order they were recorded.

    Args:
        path: a ROS 1 `.bag`, the folder of a ROS 2 bag, or an `.mcap` file.
        topic: by default the only image topic.

    Raises:
        EdgeError: no such topic, several to choose from, an unreadable file, or rosbags or mcap not installed.
    """
    return _read_mcap(path, topic) if path.suffix.lower() == ".mcap" else _read_bag(path, topic)


class _Ros1Bag(type(Path())):  # type: ignore[misc]
    """The path of a ROS 1 bag; rosbags tells it by a suffix in lower case."""

    suffix = ".bag"


def _read_bag(path: Path, topic: Optional[str]) -> Iterator[Captured]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise EdgeError(f"rosbags is not installed: {install('rosbags')}") from error
    try:
        named = _Ros1Bag(path) if path.suffix.lower() == ".bag" else path
        with AnyReader([named], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            topics = {one.topic: one.msgtype for one in reader.connections}
            chosen = choose_topic([name for name, kind in topics.items() if kind in IMAGE_TYPES], topic, path)
            wanted = [one for one in reader.connections if one.topic == chosen]
            for connection, _, data in reader.messages(connections=wanted):
                yield from_image(reader.deserialize(data, connection.msgtype))
    except EdgeError:
        raise
    except Exception as error:  # rosbags raises many kinds on damaged files
        raise EdgeError(f"bag {path}: cannot be read ({error})") from error


def _read_mcap(path: Path, topic: Optional[str]) -> Iterator[Captured]:
    try:
        from mcap.reader import make_reader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise EdgeError(f"mcap and rosbags are not installed: {install('mcap', 'rosbags')}") from error
    stores: Dict[str, Any] = {
        "cdr": get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr,
        "ros1": get_typestore(Stores.ROS1_NOETIC).deserialize_ros1,
    }
    try:
        with open(path, "rb") as file:
            reader: Any = make_reader(file)
            summary = reader.get_summary()
            if summary is None or not summary.channels:
                raise EdgeError(f"MCAP file {path}: has no index, it was cut off; `mcap recover` makes one")
            found = {
                channel.topic: (summary.schemas[channel.schema_id].name, channel.message_encoding)
                for channel in summary.channels.values()
                if channel.schema_id in summary.schemas
            }
            images = [
                name
                for name, (kind, form) in found.items()
                if _ros2_name(kind) in IMAGE_TYPES and form in stores
            ]
            chosen = choose_topic(images, topic, path, found)
            for schema, channel, message in reader.iter_messages(topics=[chosen]):
                deserialize = stores[channel.message_encoding]
                yield from_image(deserialize(message.data, _ros2_name(schema.name)))
    except EdgeError:
        raise
    except Exception as error:  # mcap raises many kinds on damaged files
        raise EdgeError(f"MCAP file {path}: cannot be read ({error})") from error


def _ros2_name(kind: str) -> str:
    """ROS 1 calls a message "sensor_msgs/Image", ROS 2 "sensor_msgs/msg/Image"."""
    return kind.replace("/", "/msg/") if kind.count("/") == 1 else kind


def choose_topic(
    images: List[str], wanted: Optional[str], path: Path, found: Optional[Dict[str, Tuple[str, str]]] = None
) -> str:
    """The wanted topic, or the only one. `found`: type and encoding of every topic, for the message. Raises: EdgeError."""
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is None or wanted not in images:
        there = sorted(
            f"{name} ({kind}, {form or 'not said'})" for name, (kind, form) in (found or {}).items()
        )
        rest = f"; it holds {', '.join(there[:20])}, and what can be read is {' or '.join(IMAGE_TYPES)} as cdr or ros1"
        raise EdgeError(
            f"topic: got {wanted!r}, expected one of the image topics of {path}: {', '.join(sorted(images)) or 'none'}"
            + (rest if there else "")
        )
    return wanted
