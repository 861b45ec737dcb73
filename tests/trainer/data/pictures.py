"""Small picture files for tests of readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, level: int = 100, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Path:
    """A PNG of (width, height) with a gradient that starts at `level`, so that each level is another picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    grey = (level + np.add.outer(np.arange(height), np.arange(width))).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(path)
    return path


def class_folders(root: Path, names: tuple[str, ...] = ("a", "b"), count: int = 3, first: int = 0) -> Path:
    """`count` pictures for each class; all differ."""
    for number, name in enumerate(names):
        for item in range(count):
            picture(root / name / f"{item}.png", first + number * count + item)
    return root
