"""The engine that counts the base classifier of a workspace: the one that its store names, the configured, or the fastest.

Every stream of a workspace is counted by one engine, because engines differ in rounding, and audits judge references.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from rrise.trainer.classifiers.base_file import read_onnx
from rrise.trainer.classifiers.blackbox import BlackBoxModule, classifier_of, label_function
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.hardware import choose_device
from rrise.trainer.montecarlo.classifier import Labeller, make_labeller
from rrise.trainer.montecarlo.counter import LARGEST_BATCH, usual_batch
from rrise.trainer.montecarlo.distributed import team
from rrise.trainer.montecarlo.engine_choice import AUTO, ChosenEngine, choose_engine
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms, EngineLabeller
from rrise.trainer.montecarlo.engines import open_engine
from rrise.trainer.montecarlo.storage.store import recorded_engines
from rrise.trainer.networks import Network
from rrise.trainer.workspace import Workspace


@dataclass(frozen=True)
class Counting:
    """What counts.

    device: where it counts. engine: as the store's identity names it; "" for the PyTorch module of a store from before, and for
    a black box, whose version stands for it. sentence: which engine and why, for people.
    """

    labeller: Labeller
    device: torch.device
    engine: str
    sentence: str


def counting_device(workspace: Workspace, base: Network, wanted: str = "") -> torch.device:
    """Where the base classifier is counted: `wanted`, or [training] device of rrise.toml where that is empty.

    "auto" takes a GPU where there is one, but for a base classifier that is no PyTorch network, and for counts that were begun
    on a processor: the device is part of what they are counts of.

    Raises TrainerError where the device is unknown or not there.
    """
    asked = wanted or workspace.config.training.device
    if asked == "auto":
        engines = recorded_engines(workspace.targets_path, base.digest)
        begun_on_cpu = any(" cpu " in f"{engine} " or not engine for engine in engines)
        if begun_on_cpu or isinstance(base.module, BlackBoxModule):
            asked = "cpu"
    return team().device(choose_device(asked))


def classifier_forms(workspace: Workspace, base: Network) -> ClassifierForms:
    """The base classifier in the forms that engines run: base.onnx, and the network where it is one."""
    module = None if isinstance(base.module, BlackBoxModule) else base.module
    return ClassifierForms(onnx=read_onnx(workspace.path), module=module)


def counting_for(workspace: Workspace, base: Network, *, device: str = "", engine: str = "") -> Counting:
    """The labeller that counts the base classifier in this workspace.

    device: see `counting_device`. engine: instead of [targets] engine; "auto" takes the engine of the counts that are there
    already, or else the fastest.

    Raises:
        TrainerError: the engine is not installed, cannot run here, disagrees beyond rounding, or is another one (or another
            version of it) than the counts that are there were made with.
    """
    crew = team()
    place = counting_device(workspace, base, device)
    asked = engine or workspace.config.targets.engine
    source, dtype = classifier_forms(workspace, base), workspace.config.targets.dtype
    classes = len(workspace.dataset.class_names)
    if source.onnx is None and source.module is None:
        return _module(base, classes, dtype, place, "the black box itself")
    options = {"num_classes": classes, "dtype": dtype, "device": place}
    noisy = noisy_batch(workspace, place)
    chosen, wanted = None, ""
    there: set[str] = set()
    if crew.rank == 0:  # the others are told, since a timing may end otherwise in each process
        there = recorded_engines(workspace.targets_path, base.digest)
        wanted = _wanted(asked, there)
        if wanted == AUTO:
            chosen = choose_engine(source, noisy, wanted=AUTO, **options)  # type: ignore[arg-type]
            wanted = chosen.labeller.name
    wanted = crew.told(wanted)
    if not wanted:
        return _module(base, classes, dtype, place, "PyTorch, as the counts that are there")
    chosen = chosen or choose_engine(source, noisy, wanted=wanted, **options)  # type: ignore[arg-type]
    _expect_recorded(workspace, there, chosen)
    return Counting(chosen.labeller, place, chosen.labeller.engine, chosen.sentence())


def _wanted(asked: str, there: set[str]) -> str:
    """The engine's name, "auto" for the fastest, or "" for the module, as counts without a named engine were made."""
    if there == {""} and asked in (AUTO, "torch"):
        return ""
    names = {name.split(" ", 1)[0] for name in there}
    return next(iter(names)) if asked == AUTO and len(names) == 1 else asked


def noisy_batch(workspace: Workspace, device: torch.device) -> Tensor:
    """Tuning frames with noise, float32 [B, C, h, w], about as many as a counted batch has: what engines are tried on."""
    inputs = workspace.inputs("tuning")
    # Of eight rows a GPU would only say how long its kernels take to start.
    rows = usual_batch(inputs[0].numel()) if device.type == "cpu" else LARGEST_BATCH
    frames = inputs.repeat(-(-rows // len(inputs)), 1, 1, 1)[:rows]
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return (frames + workspace.config.smoothing.sigma * noise).to(device)


def _module(base: Network, classes: int, dtype: str, device: torch.device, sentence: str) -> Counting:
    return Counting(make_labeller(classifier_of(base.module), classes, dtype, device), device, "", sentence)


def _expect_recorded(workspace: Workspace, there: set[str], chosen: ChosenEngine) -> None:
    other = sorted(there - {chosen.labeller.engine})
    if other:
        raise TrainerError(
            f"{workspace.targets_path}: was counted by {other[0] or 'PyTorch without an engine of its own'!r}, got "
            f"{chosen.labeller.engine!r}: engines round differently, and one base classifier should be one engine. Install "
            "that one, set [targets] engine to it, or move targets.zarr away to count anew"
        )


def fresh_answers(workspace: Workspace, base: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The base classifier from inputs float32 [B, C, H, W] on `device` to classes int64 [B], for fresh evaluations.

    On a CPU by the engine that counts this workspace, on all of PyTorch's threads; elsewhere, or where that engine cannot be
    opened here, by PyTorch.

    Raises TrainerError (when called) where an output is NaN.
    """
    classes, dtype = len(workspace.dataset.class_names), workspace.config.targets.dtype
    names = {name.split(" ", 1)[0] for name in recorded_engines(workspace.targets_path, base.digest)} - {""}
    if device.type == "cpu" and len(names) == 1:
        with contextlib.suppress(TrainerError):
            labeller = open_engine(
                next(iter(names)),
                classifier_forms(workspace, base),
                num_classes=classes,
                dtype=dtype,
                device=device,
            )
            return SharedAmongThreads(labeller)
    return label_function(base.module, classes, dtype, device)


class SharedAmongThreads:
    """A labeller whose batches are shared among PyTorch's threads where they are large; refuses NaN."""

    SMALLEST = 64
    """Rows for which another thread is worth waking."""

    def __init__(self, labeller: EngineLabeller) -> None:
        self._labeller, self._ready = labeller, False

    def __call__(self, x: Tensor) -> Tensor:
        found = self._labels(x)
        if bool((found == self._labeller.num_classes).any()):
            raise TrainerError(
                "the base classifier returned NaN; check its weights and its input range [0, 1] plus noise"
            )
        return found

    def _labels(self, x: Tensor) -> Tensor:
        threads = min(torch.get_num_threads(), len(x) // self.SMALLEST) if self._labeller.concurrent else 1
        if threads < 2 or not self._ready:
            self._ready = True  # the first batch checks the classifier, in one thread
            return self._labeller(x)
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(self._labeller, x.tensor_split(threads))))
