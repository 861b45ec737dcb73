"""Image messages of ROS 1 and ROS 2 bags and of MCAP files, without a ROS installation."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Optional

from rrise.calibration.errors import RecordingError
from rrise.calibration.recordings.bags import bag_images
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.stream.captured import Captured
from rrise.edge_sdk.stream.ros import captured


def open_bag(path: Path, topic: Optional[str]) -> Iterator[Captured]:
    """Frames of one image topic, in the order they were recorded.

    Args:
        path: a ROS 1 `.bag`, the folder of a ROS 2 bag, or an `.mcap` file.
        topic: by default the only image topic.

    Raises:
        EdgeError: no such topic, several to choose from, an unreadable file, or rosbags or mcap not installed.
    """
    try:
        for message in bag_images(path, topic):
            yield captured(message.picture())
    except RecordingError as error:
        raise EdgeError(str(error)) from error
