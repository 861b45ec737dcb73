"""Frames and how they are used: read, split, preprocessed, kept at hand, augmented."""

from rrise.trainer.data.frames import Dataset, Frames, LazyFrames
from rrise.trainer.data.loading import load_dataset
from rrise.trainer.data.readers.digits import load_digits
from rrise.trainer.data.readers.opening import open_data_source
from rrise.trainer.data.readers.source import DataSource

__all__ = ["Dataset", "Frames", "LazyFrames", "DataSource", "load_dataset", "load_digits", "open_data_source"]
