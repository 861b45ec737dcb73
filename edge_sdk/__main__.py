"""`python -m rrise.edge_sdk` is the command `rrise-edge`."""

from rrise.edge_sdk.cli import main

main()
