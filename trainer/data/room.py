"""The data of one workspace: source, geometry, catalogue and preprocessed frames, each made once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.storage.digests import json_digest
from rrise.trainer.data.cache import InputsFile, Pass, open_inputs, read_all, save_cache_record
from rrise.trainer.data.catalogue import Catalogue
from rrise.trainer.data.frames import Dataset, Frames, LazyFrames
from rrise.trainer.data.geometry import Geometry, broken_pictures, geometry_of
from rrise.trainer.data.inputs import Inputs, StoredInputs
from rrise.trainer.data.loading import lazy_frames, resident
from rrise.trainer.data.lock import WriterLock
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.data.readers.digits import open_digits
from rrise.trainer.data.readers.opening import local_path, open_data_source
from rrise.trainer.data.readers.source import DataSource, join_held_out
from rrise.trainer.data.settings import DataConfig, PreprocessConfig, plain
from rrise.trainer.data.workers import Failure
from rrise.trainer.errors import TrainerError

FORMAT = 1
"""Of the files in cache/; another number means that they are made anew."""


class DataRoom:
    """What the settings of a workspace make of its data. Everything is done when it is first asked for.

    folder: the workspace. grid: round resized levels to the grid of the guarded tier.
    """

    def __init__(self, folder: Path, data: DataConfig, preprocess: PreprocessConfig, *, grid: bool) -> None:
        self._folder, self._data, self._asked, self._grid = folder, data, preprocess, grid
        self._cache = folder / "cache"
        self._failures: list[Failure] = []

    @cached_property
    def source(self) -> DataSource | None:
        """The opened source; None where its files are gone and the catalogue stands for them."""
        if self._data.source == "digits" and not self._data.held_out:
            return open_digits()
        places = [self._path(text) for text in (self._data.source, self._data.held_out) if text]
        if not all(path.exists() for path in places) and self._kept is not None:
            self._expect_same(self._kept)
            return None
        asked, kept = self._data, self._cache / "recordings.npz"
        opened = [
            open_data_source(path, clips=asked.clips, every=asked.every, topic=asked.topic, kept=kept)
            for path in places
        ]
        return join_held_out(*opened) if len(opened) > 1 else opened[0]

    @cached_property
    def catalogue(self) -> Catalogue:
        """Digests, labels and clips of all frames: from cache/catalogue.npz, or found by reading every picture."""
        source, kept = self.source, self._kept
        if source is None:
            assert kept is not None
            return kept
        key = self._key(source)
        if kept is not None and kept.key == key:
            return kept
        if source.stamp == "digits":
            return self._read(source, key, None)[0]
        with self._alone():
            kept = Catalogue.load(self._cache / "catalogue.npz")  # another process may have been here
            return kept if kept is not None and kept.key == key else self._make(source, key)

    @cached_property
    def geometry(self) -> Geometry:
        """The camera's frames: from the catalogue where it holds, else from the headers of all pictures."""
        source, kept = self.source, self._kept
        if source is None or (kept is not None and kept.key == self._key(source)):
            assert kept is not None
            return kept.geometry
        camera = self._data.camera
        if camera and (len(camera) != 2 or min(camera) < 1):
            raise TrainerError(f"[data] camera: got {list(camera)}, expected [height, width] in pixels")
        failures = self._failures if self._data.skip_broken else None
        size = (camera[0], camera[1]) if camera else None
        return geometry_of(source, size, self._asked.encoding == "bgr8", failures)

    @cached_property
    def preprocess(self) -> Preprocess:
        """From a camera frame to the tensor that is smoothed."""
        asked, shape = self._asked, self.geometry.frame_shape
        encoding = asked.encoding if asked.encoding != "auto" else ("mono8" if shape[2] == 1 else "rgb8")
        if asked.crop and len(asked.crop) != 4:
            raise TrainerError(
                f"[preprocess] crop: got {list(asked.crop)}, expected [top, left, height, width]"
            )
        if asked.size and len(asked.size) != 2:
            raise TrainerError(f"[preprocess] size: got {list(asked.size)}, expected [height, width]")
        crop = (asked.crop[0], asked.crop[1], asked.crop[2], asked.crop[3]) if asked.crop else None
        size = (asked.size[0], asked.size[1]) if asked.size else None
        return Preprocess(shape, encoding, crop, size, grid=self._grid)

    @cached_property
    def dataset(self) -> Dataset:
        """The labelled frames, in memory or read when they are asked for."""
        known = self.catalogue
        return Dataset(
            self._frames(known), known.labels, known.class_names, known.clips, known.held_out, known.digests
        )

    def inputs(self, index: np.ndarray) -> Inputs:
        """Preprocessed frames of those numbers; nothing is decoded or resized again where it was done once."""
        if not self._on_disk:
            return Inputs(self.dataset.take(index), self.preprocess, self.dataset.digests[index])
        rows, digests = self.catalogue.rows[index], self.catalogue.digests[index]
        return StoredInputs(self._inputs_file, rows, digests, self.preprocess.output_shape)

    @property
    def _on_disk(self) -> bool:
        """Preprocessed frames are kept in a file, unless plain frames in memory serve as well."""
        source = self.source
        if source is not None and source.stamp == "digits" and not self.preprocess.resizes:
            return False
        return self.preprocess.resizes or source is None or resident(source, self.geometry) is None

    def _frames(self, known: Catalogue) -> Frames:
        source = self.source
        if source is None:
            return LazyFrames(self._gone, known.rows, known.geometry.frame_shape)
        array = resident(source, known.geometry)
        if array is not None:
            return array if len(array) == len(known) else array[known.rows]
        return lazy_frames(source, known.geometry, known.rows, known.digests)

    def _gone(self, number: int) -> np.ndarray:
        raise TrainerError(
            f"the images of {self._data.source} are gone, and this command needs frame {number} of them; restore the "
            "folder (commands that need only what was made from the images still work)"
        )

    @cached_property
    def _inputs_file(self) -> InputsFile:
        known = self.catalogue
        found = self._open_inputs(known)
        if found is None:
            with self._alone():
                found = self._open_inputs(known) or self._remake(known)
        return found

    def _open_inputs(self, known: Catalogue) -> InputsFile | None:
        return open_inputs(self._cache / "inputs.npy", self._cache / "inputs.npz", self._made_from(known))

    def _remake(self, known: Catalogue) -> InputsFile:
        """Preprocess all frames again, for other settings than those that the file was made with."""
        source = self.source
        if source is None:
            self._gone(0)
        assert source is not None
        again, found = self._read(source, known.key, self._cache / "inputs.npy.new")
        if again.content != known.content:
            raise TrainerError(
                f"{self._data.source}: the images changed while they were read; run the command again"
            )
        return self._finish(known, found)

    def _make(self, source: DataSource, key: str) -> Catalogue:
        """Read every picture: catalogue and, where it is wanted, the file of preprocessed frames in the same pass."""
        target = self._cache / "inputs.npy.new" if self._on_disk else None
        known, found = self._read(source, key, target)
        if target is not None:
            self._finish(known, found)
        known.save(self._cache / "catalogue.npz")
        return known

    def _finish(self, known: Catalogue, found: Pass) -> InputsFile:
        (self._cache / "inputs.npz").unlink(missing_ok=True)
        (self._cache / "inputs.npy.new").replace(self._cache / "inputs.npy")
        save_cache_record(self._cache / "inputs.npz", found, self._made_from(known))
        file = self._open_inputs(known)
        assert file is not None
        return file

    def _read(self, source: DataSource, key: str, target: Path | None) -> tuple[Catalogue, Pass]:
        geometry = self.geometry
        try:
            found = read_all(source, geometry, self.preprocess, target)
        except OSError as error:
            raise TrainerError(
                f"{self._cache}: {error.strerror or error}; make room, or mend its permissions"
            ) from error
        if found.failures and not self._data.skip_broken:
            raise broken_pictures(list(found.failures))
        skipped = tuple(source.pictures.where(failure.number) for failure in found.failures)
        return Catalogue.of(source, geometry, key, found.rows, found.digests, skipped, self._asked_for), found

    def _made_from(self, known: Catalogue) -> dict[str, Any]:
        return {"format": FORMAT, "preprocessing": self.preprocess.to_json(), "content": known.content}

    @cached_property
    def _kept(self) -> Catalogue | None:
        path = self._cache / "catalogue.npz"
        return Catalogue.load(path) if path.exists() else None

    @property
    def _asked_for(self) -> dict[str, Any]:
        """The settings that decide what is read, as the catalogue keeps them."""
        return {
            **plain(vars(self._data)),
            "encoding": "bgr8" if self._asked.encoding == "bgr8" else "not bgr8",
        }

    def _expect_same(self, kept: Catalogue) -> None:
        """Raise where frames that are kept were read with other settings: a misspelt source must not go unnoticed."""
        for name, asked in self._asked_for.items():
            if kept.asked and kept.asked.get(name, asked) != asked:
                section = "preprocess" if name == "encoding" else "data"
                raise TrainerError(
                    f"[{section}] {name}: got {asked!r}, expected {kept.asked[name]!r}, with which the frames of this "
                    f"workspace were read: [data] source {self._data.source!r} or held_out is not there to read them "
                    "again; mend the settings, or put the images there"
                )

    def _key(self, source: DataSource) -> str:
        asked = self._data
        reverse = self._asked.encoding == "bgr8"
        return json_digest(
            [
                FORMAT,
                source.stamp,
                list(asked.camera),
                asked.clips,
                asked.skip_broken,
                bool(asked.held_out),
                reverse,
                # Only where they are said, so that a catalogue of before they were there still holds.
                *([asked.every, asked.topic] if (asked.every, asked.topic) != (1, "") else []),
            ]
        )

    def _path(self, source: str) -> Path:
        return local_path(source) if "://" in source else self._folder / source

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process reads the images; others, such as those of torchrun, wait for what it makes."""
        lock = WriterLock(self._cache / ".lock")
        lock.acquire(wait=True)
        try:
            yield
        finally:
            (self._cache / "inputs.npy.new").unlink(missing_ok=True)
            lock.release()
