"""Image messages of ROS 1 and ROS 2 bags and of MCAP files, without a ROS installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Optional

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
    return _read_mcap(path, topic) if path.suffix == ".mcap" else _read_bag(path, topic)


def _read_bag(path: Path, topic: Optional[str]) -> Iterator[Captured]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise EdgeError("rosbags is not installed: `pip install rrise[ros]`") from error
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
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
        raise EdgeError("mcap and rosbags are not installed: `pip install rrise[ros]`") from error
    store: Any = get_typestore(Stores.ROS2_HUMBLE)
    try:
        with open(path, "rb") as file:
            reader: Any = make_reader(file)
            summary = reader.get_summary()
            kinds = {
                channel.topic: summary.schemas[channel.schema_id].name
                for channel in summary.channels.values()
            }
            chosen = choose_topic([name for name, kind in kinds.items() if kind in IMAGE_TYPES], topic, path)
            for schema, _, message in reader.iter_messages(topics=[chosen]):
                yield from_image(store.deserialize_cdr(message.data, schema.name))
    except EdgeError:
        raise
    except Exception as error:  # mcap raises many kinds on damaged files
        raise EdgeError(f"MCAP file {path}: cannot be read ({error})") from error


def choose_topic(images: List[str], wanted: Optional[str], path: Path) -> str:
    """The wanted topic, or the only one. Raises: EdgeError."""
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is None or wanted not in images:
        raise EdgeError(
            f"topic: got {wanted!r}, expected one of the image topics of {path}: {', '.join(sorted(images)) or 'none'}"
        )
    return wanted
