"""Whether a camera loop that was made for one bundle can go on with another."""

from __future__ import annotations

from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.formats.manifest import Manifest


def check_exchangeable(mine: Manifest, theirs: Manifest) -> None:
    """Raises: EdgeError: the new bundle makes another kind of promise, takes other frames or has other classes."""
    if mine.guard != theirs.guard:
        raise EdgeError(
            f"swap: the new bundle's guard is {theirs.guard}, this one's {mine.guard}: it promises something else; load"
            " it with `Certifier.load`"
        )
    if (mine.input, mine.class_names) != (theirs.input, theirs.class_names):
        raise EdgeError(
            f"swap: the new bundle takes {theirs.input} with classes {theirs.class_names}, this one {mine.input} with"
            f" {mine.class_names}; load it with `Certifier.load`"
        )
