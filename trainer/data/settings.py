"""[data], [splits] and [preprocess] of rrise.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataConfig:
    """Where the frames come from.

    source: "digits", an .npz file, a folder of class folders of images or recordings, a listing (.csv, .jsonl), a Zarr
    group, .tar shards or a Hugging Face data set on disk (relative paths start at the workspace).

    held_out: another such source, from which alone tuning, calibration, verification and test are drawn; all frames of
    `source` then belong to the train split. Who brings a trained classifier needs it.
    camera: (height, width) of the frames that the deployed camera delivers; empty = that of the images, which then must
    have one size. Other images are scaled and cut to it.
    clips: which file names belong together, such as "{clip}_{frame}"; empty = each file on its own.
    every: of recordings (videos, ROS bags, MCAP files) each so-many-th frame is taken. topic: of bags; empty = the only image
    topic.
    skip_broken: leave out images that cannot be read, and record which.
    """

    source: str = "digits"
    held_out: str = ""
    camera: tuple[int, ...] = ()
    clips: str = ""
    skip_broken: bool = False
    every: int = 1
    topic: str = ""


@dataclass(frozen=True)
class SplitsConfig:
    """Sizes in frames (whole numbers) or shares of all frames that they are drawn from (0 < share < 1).

    Train gets the rest, or, where the data name held-out frames, all others.
    """

    seed: int = 0
    tuning: int | float = 180
    calibration: int | float = 300
    verification: int | float = 215
    test: int | float = 200

    def sizes(self) -> dict[str, int | float]:
        return {name: getattr(self, name) for name in ("tuning", "calibration", "verification", "test")}


@dataclass(frozen=True)
class PreprocessConfig:
    """crop: (top, left, height, width) in pixels, empty = none; size: (height, width) after resizing, empty = none.

    encoding: channel order of the frames that a camera will deliver; "auto" is mono8 or rgb8 by channel count.
    """

    crop: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    encoding: str = "auto"


def plain(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with tuples as lists, as it comes back from JSON."""
    return {key: list(item) if isinstance(item, tuple) else item for key, item in section.items()}
