"""How far two engines are the same classifier: paired answers on fresh noisy draws, with a bound, and what an audit owes it.

The certificate speaks of the base classifier as the engine of the store ran it. An audit, a verification or a device that
asks another engine judges a slightly other classifier: its class probabilities at a frame differ by at most the probability
that the two answer differently there.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rrise.calibration.console import Progress
from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import clopper_pearson_upper
from rrise.calibration.storage.files import read_json, write_json
from rrise.calibration.storage.formats import check_format
from rrise.trainer.counts.counting import classifier_forms, counting_for
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engines import open_engine
from rrise.trainer.workspace import Workspace

CONFIDENCE, SLIP, BATCH = 0.999, 0.001, 256
"""Of the bound; the share of frames that the tolerance may leave out; draws at once."""
RECORD = "agreement.json"
FORMATS = ("rrise-agreement/1",)


@dataclass(frozen=True)
class Agreement:
    """Paired answers of two engines.

    first, second: the engines, as a store's identity names them. split, frames: whose frames, and how many of them.
    draws: paired noisy evaluations, each on a frame drawn uniformly with replacement, with noise of its own. differing: of
    them, those with different classes. bound: upper bound on the mean disagreement over the frames of this split, with
    probability CONFIDENCE. tolerance: t of which Markov's inequality says: at most a share `slip` of these frames disagrees
    with a probability above t. A judge that asks the second engine subtracts t from its lower bound of a class probability
    (adds it to an upper one) and adds `slip` to the share of frames on which it may be wrong.
    """

    first: str
    second: str
    split: str
    frames: int
    draws: int
    differing: int
    bound: float
    tolerance: float
    slip: float
    sigma: float
    base_digest: str
    seed: int

    @property
    def share(self) -> float:
        """Observed disagreement."""
        return self.differing / self.draws

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "share": self.share, "confidence": CONFIDENCE}


def agree(
    workspace: Workspace,
    engine: str,
    *,
    draws: int = 100_000,
    split: str = "tuning",
    device: str = "",
    seed: int | None = None,
    allow_code: bool = False,
) -> Agreement:
    """Compare `engine` with the engine that counts this workspace, and record the result in agreement.json.

    seed: of frames and noise; None draws one from the operating system. The noise is that of no stream of counts.

    **Guarantee**: with probability at least CONFIDENCE over the draws, the mean over the frames of `split` of the probability
    that the two engines answer differently at sigma is at most `bound` (Clopper-Pearson; draws are independent).

    Raises:
        TrainerError: an engine is not installed or cannot run, both are the same, or there is no file or network to run.
    """
    if draws < 1:
        raise TrainerError(f"agree: got {draws} draws, expected at least 1, such as 100000")
    base = workspace.base(allow_code=allow_code)
    first, classes = counting_for(workspace, base, device=device), len(workspace.dataset.class_names)
    place = first.device
    second = open_engine(
        engine,
        classifier_forms(workspace, base),
        num_classes=classes,
        dtype=workspace.config.targets.dtype,
        device=place,
    )
    if first.engine == second.engine:
        raise TrainerError(
            f"agree: got {second.engine!r}, the engine that counts this workspace, expected another one"
        )
    seed = secrets.randbits(62) if seed is None else seed
    sigma = workspace.config.smoothing.sigma
    inputs, generator = workspace.inputs(split), torch.Generator().manual_seed(seed)
    differing = 0
    with torch.inference_mode(), Progress(draws, "draws", "agreement") as progress:
        for start in range(0, draws, BATCH):
            size = min(BATCH, draws - start)
            index = torch.randint(len(inputs), (size,), generator=generator)
            noisy = inputs[index] + sigma * torch.randn((size, *inputs.shape[1:]), generator=generator)
            # A single row takes another kernel than the same row in a batch.
            noisy = (noisy if size > 1 else noisy.repeat(2, 1, 1, 1)).to(place)
            differing += int((first.labeller(noisy) != second(noisy))[:size].sum())
            progress.advance(size)
    bound = float(clopper_pearson_upper(np.array([differing]), np.array([draws]), 1 - CONFIDENCE)[0])
    found = Agreement(
        first.engine or "module", second.engine, split, len(inputs), draws, differing, bound, min(bound / SLIP, 1.0), SLIP,
        sigma, base.digest, seed,
    )  # fmt: skip
    _record(workspace, found)
    return found


def draws_for(tolerance: float) -> int:
    """The fewest draws that, without a difference among them, give a tolerance of at most this, in (0, 1)."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-tolerance * SLIP))


def _record(workspace: Workspace, found: Agreement) -> None:
    """Beside the agreements of other engines; the same pair again replaces its entry."""
    path = workspace.path / RECORD
    try:
        value = read_json(path, "record of agreements") if path.exists() else {"agreements": []}
        if path.exists():
            check_format(str(path), value.get("format", FORMATS[0]), FORMATS, "remove it", TrainerError)
        entries = list(value["agreements"])
    except (CalibrationError, KeyError, TypeError, AttributeError) as error:
        raise TrainerError(f"{path}: cannot be read ({error!r}); restore it or remove it") from error
    pair = (found.first, found.second, found.split, found.base_digest)
    kept = [
        item
        for item in entries
        if tuple(item.get(k) for k in ("first", "second", "split", "base_digest")) != pair
    ]
    write_json(path, {"format": FORMATS[-1], "agreements": [*kept, found.to_json()]})
