"""`edge_sdk` is `rrise.edge_sdk` under the name that robots write: the same package, the same submodules."""

from typing import TYPE_CHECKING

from rrise.names import stand_in

if TYPE_CHECKING:
    from rrise.edge_sdk import *  # noqa: F403

stand_in(__name__)
