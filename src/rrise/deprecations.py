"""What still works under an older name or form, since when, until when, and what to write instead.

A release may drop what is past its `remove_in`; a test fails once the version has reached it and the entry is still here.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple


@dataclass(frozen=True)
class Deprecation:
    """One older way: what it is, what to use instead, and the releases that deprecated it and will drop it."""

    what: str
    instead: str
    since: str
    remove_in: str


DEPRECATIONS: Dict[str, Deprecation] = {
    "moved-modules": Deprecation(
        "modules by the places they had in 0.1, such as edge_sdk.images",
        "their places below rrise: `rrise.edge_sdk.frames.images`",
        since="0.2",
        remove_in="0.4",
    ),
    "renamed-names": Deprecation(
        "names that meant something else in another module",
        "the present name",
        since="0.2",
        remove_in="0.4",
    ),
    "hexadecimal-keys": Deprecation(
        "signing keys as 64 hexadecimal characters",
        "PEM, as `rrise-export keygen` writes it",
        since="0.2",
        remove_in="0.4",
    ),
}


def warn(name: str, detail: str, stacklevel: int = 3) -> None:
    """Warn about one use of DEPRECATIONS[name]; detail: what was used, as in a module's name."""
    entry = DEPRECATIONS[name]
    warnings.warn(
        f"{detail}: {entry.what} are deprecated since {entry.since} and go in {entry.remove_in}; use {entry.instead}",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def overdue(version: str) -> List[str]:
    """Names in DEPRECATIONS that a release of this version should no longer have."""
    return [name for name, entry in DEPRECATIONS.items() if _parts(version) >= _parts(entry.remove_in)]


def _parts(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def older_names(
    module: str, names: Mapping[str, str], otherwise: Optional[Callable[[str], Any]] = None
) -> Callable[[str], Any]:
    """`__getattr__` of a module in which names were changed: an older one gives the present object, and warns once.

    names: from the older to the present name, which is found in the same module. otherwise: the `__getattr__` for all others.
    """

    def get(name: str) -> Any:
        if name not in names:
            if otherwise is not None:
                return otherwise(name)
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn("renamed-names", f"{module}.{name} (now {names[name]})", stacklevel=3)
        value = getattr(sys.modules[module], names[name])
        setattr(sys.modules[module], name, value)
        return value

    return get
