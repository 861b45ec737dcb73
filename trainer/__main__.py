"""`python -m rrise.trainer` is the command `rrise-train`."""

from rrise.trainer.cli import main

main()
