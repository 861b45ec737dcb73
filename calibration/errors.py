"""The exceptions of the calibration package; `RriseError` is the base of every error that rrise raises."""


class RriseError(Exception):
    """Base of all errors of rrise. The message says what was got, what was expected and how to mend it."""


class CheckFailed(RriseError):
    """A check ran to its end and the answer is no (command line exit status 1)."""


class CalibrationError(RriseError):
    """Input that the mathematics of this package cannot accept."""


class ImageError(RriseError):
    """An image file, or its bytes, cannot be read as the picture that a certificate would speak of."""


class RecordingError(RriseError):
    """A recording (a bag, an MCAP file, a video) cannot be read, or does not say which pictures are wanted."""
