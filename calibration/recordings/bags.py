"""Image messages of ROS 1 and ROS 2 bags and of MCAP files, without a ROS installation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from rrise.calibration.errors import RecordingError
from rrise.calibration.recordings.messages import IMAGE_TYPES, Picture, picture_of
from rrise.calibration.requirements import install

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
ROS2_MARKER = "metadata.yaml"
"""In the folder of every ROS 2 bag."""


@dataclass(frozen=True)
class ImageMessage:
    """One image message as it lies in a recording.

    Attributes:
        time: nanoseconds at which it was recorded.
        topic: that it was recorded on.
        where: names the recording in messages.
        decode: the message's fields; while the recording is open, that is before the next message or the end is asked for.
    """

    time: int
    topic: str
    where: str
    decode: Callable[[], Any]

    def picture(self) -> Picture:
        """What the message holds. Raises: RecordingError: its bytes are no such message."""
        try:
            return picture_of(self.decode())
        except Exception as error:  # what deserializers raise has no common base
            raise RecordingError(f"{self.where}: cannot be read ({error})") from error


def is_bag(path: Path) -> bool:
    """Whether a path is called like a bag or an MCAP file, or is the folder of a ROS 2 bag."""
    return path.suffix.lower() in BAG_SUFFIXES or (path / ROS2_MARKER).exists()


def bag_images(path: Path, topic: Optional[str], start: Optional[int] = None) -> Iterator[ImageMessage]:
    """Messages of one image topic in the order they were recorded, none of them decoded.

    Args:
        path: a ROS 1 `.bag`, the folder of a ROS 2 bag, or an `.mcap` file.
        topic: by default the only image topic.
        start: nanoseconds of the first message that is wanted.

    Raises:
        RecordingError: no such topic, several to choose from, an unreadable file, or rosbags or mcap not installed.
    """
    read, what = (_mcap, "MCAP file") if path.suffix.lower() == ".mcap" else (_bag, "bag")
    try:
        yield from read(path, topic, start)
    except RecordingError:
        raise
    except Exception as error:  # rosbags and mcap raise many kinds on damaged files
        raise RecordingError(f"{what} {path}: cannot be read ({error})") from error


class _Ros1Bag(type(Path())):  # type: ignore[misc]
    """The path of a ROS 1 bag; rosbags tells it by a suffix in lower case."""

    suffix = ".bag"


def _bag(path: Path, topic: Optional[str], start: Optional[int]) -> Iterator[ImageMessage]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise RecordingError(f"rosbags is not installed: {install('rosbags')}") from error
    named = _Ros1Bag(path) if path.suffix.lower() == ".bag" else path
    with AnyReader([named], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        topics = {one.topic: one.msgtype for one in reader.connections}
        chosen = choose_topic([name for name, kind in topics.items() if kind in IMAGE_TYPES], topic, path)
        wanted = [one for one in reader.connections if one.topic == chosen]
        for connection, when, data in reader.messages(connections=wanted, start=start):
            yield ImageMessage(
                when, chosen, f"bag {path}", _late(reader.deserialize, data, connection.msgtype)
            )


def _mcap(path: Path, topic: Optional[str], start: Optional[int]) -> Iterator[ImageMessage]:
    try:
        from mcap.reader import make_reader

        deserializers = _deserializers()
    except ImportError as error:
        raise RecordingError(f"mcap and rosbags are not installed: {install('mcap', 'rosbags')}") from error
    with open(path, "rb") as file:
        reader: Any = make_reader(file)
        summary = reader.get_summary()
        if summary is None or not summary.channels:
            raise RecordingError(f"MCAP file {path}: has no index, it was cut off; `mcap recover` makes one")
        found = {
            channel.topic: (summary.schemas[channel.schema_id].name, channel.message_encoding)
            for channel in summary.channels.values()
            if channel.schema_id in summary.schemas
        }
        images = [
            name
            for name, (kind, form) in found.items()
            if _ros2_name(kind) in IMAGE_TYPES and form in deserializers
        ]
        chosen = choose_topic(images, topic, path, found)
        # Newer versions of mcap call it otherwise, and warn of the name that older ones have.
        newer = "starting_at" in signature(reader.iter_messages).parameters
        begin = {} if start is None else {"starting_at" if newer else "start_time": start}
        for schema, channel, message in reader.iter_messages(topics=[chosen], **begin):
            read = _late(deserializers[channel.message_encoding], message.data, _ros2_name(schema.name))
            yield ImageMessage(message.log_time, chosen, f"MCAP file {path}", read)


@lru_cache(maxsize=1)
def _deserializers() -> Dict[str, Any]:
    """By the encoding of messages; kept, since each store compiles its own. Raises: ImportError."""
    from rosbags.typesys import Stores, get_typestore

    return {
        "cdr": get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr,
        "ros1": get_typestore(Stores.ROS1_NOETIC).deserialize_ros1,
    }


def _late(deserialize: Callable[[Any, str], Any], data: Any, kind: str) -> Callable[[], Any]:
    return lambda: deserialize(data, kind)


def _ros2_name(kind: str) -> str:
    """ROS 1 calls a message "sensor_msgs/Image", ROS 2 "sensor_msgs/msg/Image"."""
    return kind.replace("/", "/msg/") if kind.count("/") == 1 else kind


def choose_topic(
    images: List[str], wanted: Optional[str], path: Path, found: Optional[Dict[str, Tuple[str, str]]] = None
) -> str:
    """The wanted topic, or the only one. `found`: type and encoding of every topic, for the message.

    Raises:
        RecordingError: there is no such topic, or there are several.
    """
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is None or wanted not in images:
        there = sorted(
            f"{name} ({kind}, {form or 'not said'})" for name, (kind, form) in (found or {}).items()
        )
        rest = f"; it holds {', '.join(there[:20])}, and what can be read is {' or '.join(IMAGE_TYPES)} as cdr or ros1"
        raise RecordingError(
            f"topic: got {wanted!r}, expected one of the image topics of {path}: {', '.join(sorted(images)) or 'none'}"
            + (rest if there else "")
        )
    return wanted
