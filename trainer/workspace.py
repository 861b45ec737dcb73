"""A workspace: one folder per model with everything that was asked, computed and spent."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rrise.calibration.storage.digests import combined_digest
from rrise.calibration.storage.files import atomic_file, write_json
from rrise.calibration.tables.cost import CostEntry, CostLedger
from rrise.calibration.tables.references import References
from rrise.trainer.classifiers.base_file import base_digest
from rrise.trainer.data import Dataset
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.splits import Splits, make_splits
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import Network, differences, load_network
from rrise.trainer.settings.config import Config, load_config
from rrise.trainer.settings.text import commented
from rrise.trainer.streams import REFERENCE_SPLITS, check_against_store

SCORED_SPLITS = (*REFERENCE_SPLITS, "test")


class Workspace:
    """Paths, data and artefacts of one model. Everything is read when it is first asked for.

    path: the folder; config: what its rrise.toml says.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @staticmethod
    def create(path: str | Path, config: Config | None = None) -> Workspace:
        """Make the folder and its rrise.toml; a folder that already holds the same settings is simply opened."""
        root, config = Path(path), config or Config()
        if root.exists() and not root.is_dir():
            raise TrainerError(f"{root}: got a file, expected a new folder, or one without an rrise.toml")
        if (root / "rrise.toml").exists():
            workspace = Workspace.open(root)
            if workspace.config != config:
                raise TrainerError(
                    f"{root / 'rrise.toml'}: exists with other settings; open that workspace, edit its rrise.toml, "
                    "or choose another folder"
                )
            return workspace
        with atomic_file(root / "rrise.toml", "w") as file:
            file.write(commented(config))
        return Workspace(root, config)

    @staticmethod
    def open(path: str | Path) -> Workspace:
        """Open an existing workspace."""
        root = Path(path)
        if not (root / "rrise.toml").is_file():
            raise TrainerError(
                f"{root}: no rrise.toml in it; make a workspace with `rrise-train init {root}`"
            )
        return Workspace(root, load_config(root / "rrise.toml"))

    def command(self, words: str) -> str:
        """How a command of this workspace is typed: "rrise-train base" with the folder, and what lets code of its own run."""
        asked = self.config.base
        code = " --allow-code" if asked.factory or asked.black_box else ""
        return f"{words} {self.path}{code}"

    @property
    def base_path(self) -> Path:
        return self.path / "base.safetensors"

    @property
    def base_digest(self) -> str:
        """Digest of the base classifier: of base.onnx, or of base.safetensors where it is no ONNX file."""
        return base_digest(self.path)

    @property
    def surrogate_path(self) -> Path:
        return self.path / "surrogate.safetensors"

    @property
    def targets_path(self) -> Path:
        return self.path / "targets.zarr"

    @property
    def certify_path(self) -> Path:
        return self.path / "certify.npz"

    @property
    def cost_path(self) -> Path:
        return self.path / "cost.json"

    def references_path(self, split: str) -> Path:
        return self.path / "references" / f"{split}.npz"

    def scores_path(self, execution: str, split: str) -> Path:
        """Scores table of the execution with that name on that split."""
        return self.path / "scores" / execution / f"{split}.npz"

    @cached_property
    def data(self) -> DataRoom:
        """The frames: read, catalogued and preprocessed once, in cache/."""
        config = self.config
        return DataRoom(self.path, config.data, config.preprocess, grid=bool(config.guard.noise))

    @property
    def dataset(self) -> Dataset:
        return self.data.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names of the classes."""
        return self.data.catalogue.class_names

    @cached_property
    def splits(self) -> Splits:
        """The five splits: read from splits.npz, or drawn and written there the first time."""
        path = self.path / "splits.npz"
        content = self.data.catalogue.content
        asked = {"seed": self.config.splits.seed, **self.config.splits.sizes()}
        made_from = {"data": content, "[splits]": asked}
        if path.exists():
            return Splits.load(path, made_from)
        splits = self.foretold_splits()
        splits.save(path, made_from)
        write_json(self.path / "rrise.resolved.json", self._resolved(splits, content))
        return splits

    def foretold_splits(self) -> Splits:
        """The splits as the first stage will draw them, without fixing them: their sizes can still be edited."""
        return make_splits(self.dataset, self.config.splits.sizes(), self.config.splits.seed)

    @property
    def preprocess(self) -> Preprocess:
        """From a camera frame to the tensor that is smoothed."""
        return self.data.preprocess

    def frames(self, split: str) -> np.ndarray:
        """Camera frames uint8 [n, H, W, C] of a split, in memory: meant for the splits that are held out, which are small.

        For the train split of a large data set `training_inputs` reads what it needs.
        """
        return np.asarray(self.dataset.take(self.splits.indices(split)))

    def labels(self, split: str) -> np.ndarray:
        """int64 [n] of a split."""
        return np.asarray(self.dataset.labels[self.splits.indices(split)])

    def split_inputs(self, split: str) -> Inputs:
        """Preprocessed frames of a split, with their digests, read when they are asked for."""
        return self.data.inputs(self.splits.indices(split))

    def training_inputs(self) -> Inputs:
        """Preprocessed frames of the train split, read when they are asked for."""
        return self.split_inputs("train")

    def inputs(self, split: str) -> torch.Tensor:
        """Preprocessed frames of a split, float32 [n, C, h, w] in [0, 1]."""
        inputs = self.split_inputs(split)
        found = torch.empty(len(inputs), *inputs.shape)
        for index in torch.arange(len(inputs)).split(256):
            found[index] = inputs[index]
        return found

    def base(self, *, allow_code: bool = False) -> Network:
        """The base classifier; refused where its frames, preprocessing or sigma are not this workspace's."""
        network = load_network(self.base_path, allow_code=allow_code)
        self.check_fits(network, self.base_path, "base")
        return replace(network, digest=self.base_digest)

    def surrogate(self, *, allow_code: bool = False) -> Network:
        """The surrogate; refused where it was not made from this workspace's base classifier and frames."""
        network = load_network(self.surrogate_path, allow_code=allow_code)
        self.check_fits(network, self.surrogate_path, "surrogate")
        expected = self.base_digest
        if network.metadata.get("base_digest") != expected:
            raise TrainerError(
                f"{self.surrogate_path}: trained for base classifier {network.metadata.get('base_digest')}, expected "
                f"{expected} of {self.base_path}; run `rrise-train surrogate --again` or restore that base classifier"
            )
        return network

    def references(self, split: str) -> References:
        """The reference pack of a split.

        Refused where it belongs to another base classifier, sigma or split, or says something else than the store of counts.
        """
        path = self.references_path(split)
        if not path.exists():
            command = "certify" if split == "test" else "targets"
            raise TrainerError(f"{path}: no such file; run `rrise-train {command} {self.path}` first")
        references = References.load(path)
        expected = (
            split,
            self.config.smoothing.sigma,
            self.base_digest,
            self.splits.digest(split),
        )
        got = (references.split, references.sigma, references.base_digest, combined_digest(references.digest))
        names = ("split", "sigma", "base classifier", "frames")
        for name, have, want in zip(names, got, expected, strict=True):
            if have != want:
                raise TrainerError(
                    f"{path}: {name}: got {have}, expected {want}; run `rrise-train targets {self.path}` again"
                )
        check_against_store(self, references)
        return references

    def fingerprint(self) -> dict[str, Any]:
        """What every network of this workspace was made from."""
        return {
            "sigma": self.config.smoothing.sigma,
            "preprocessing": self.preprocess.to_json(),
            "class_names": list(self.class_names),
            "train_digest": self.splits.digest("train"),
        }

    def check_fits(self, network: Network, path: Path, stage: str) -> None:
        """Refuse a network that was made from other frames, another preprocessing or another sigma."""
        for name, got, expected in differences(network.metadata, self.fingerprint()):
            raise TrainerError(
                f"{path}: {name}: got {got}, expected {expected}; run `rrise-train {stage} {self.path} --again`, "
                "or restore the settings it was made with"
            )

    def record_cost(self, stage: str, *, passes: int = 0, trained: int = 0) -> None:
        """Write a stage's cost into cost.json; running the stage again replaces its entry."""
        self.cost().with_entry(CostEntry(stage, passes, trained)).save(self.cost_path)

    def cost(self) -> CostLedger:
        """What has been spent so far, in base forward passes."""
        return CostLedger.load(self.cost_path) if self.cost_path.exists() else CostLedger()

    def _resolved(self, splits: Splits, content: str) -> dict[str, Any]:
        dataset = self.dataset
        return {
            "config": self.config.to_json(),
            "data": {
                "digest": content,
                "frames": len(dataset),
                "frame_shape": list(dataset.frames.shape[1:]),
            },
            "class_names": list(dataset.class_names),
            "preprocessing": self.preprocess.to_json(),
            "splits": {
                name: {"frames": len(splits.indices(name)), "digest": splits.digest(name)}
                for name in ("train", "tuning", "calibration", "verification", "test")
            },
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
