"""`python -m rrise.calibration` is the command `rrise-calibrate`."""

from rrise.calibration.cli import main

main()
