"""Frames and how they are used: read, split, preprocessed, augmented."""

from rrise.trainer.data.frames import Dataset, load_dataset, load_digits

__all__ = ["Dataset", "load_dataset", "load_digits"]
