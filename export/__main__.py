"""`python -m rrise.export` is the command `rrise-export`."""

from rrise.export.cli import main

main()
