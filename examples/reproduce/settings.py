"""What a run is asked to do: presets, recipes of surrogates, and the data set's own network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rrise.calibration.promise.plan import default_radii
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.identity import SAMPLE_BLOCK

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain(settings: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them: tuples as lists."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}


@dataclass(frozen=True)
class Recipe:
    """One way of training a surrogate.

    start: "base" (the base classifier's weights) or "scratch". targets: "fresh" (new noisy evaluations of every view)
    or "stored" (class counts of the unaugmented training frames). loss: "ce" (soft-label cross-entropy) or "js"
    (Jensen-Shannon divergence). mix: share of the fresh views that are blended. stored_samples: draws per training frame
    that a stored recipe uses; 0 = all there are. guard: standard deviation of the noise on the surrogate's own input
    (guarded tier). widths: of another network than the base classifier's; empty = the same.
    """

    name: str
    start: str = "base"
    targets: str = "fresh"
    loss: str = "ce"
    mix: float = 0.0
    samples_per_view: int = 2
    stored_samples: int = 0
    guard: float = 0.0
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers; a run folder refuses others.

    train, tuning, calibration, test: frames (train 0 = all). train_samples, reference_samples, certify, audit: Monte
    Carlo draws per frame. epochs: of the fresh recipes; those on stored counts get the same training compute.
    surrogate_rate, surrogate_decay: learning rate and weight decay of surrogates that start from the base classifier's
    weights; the others have scratch_rate and weight_decay, and the prior's recipe its own. guard: (rho, noise) of the
    guarded tier, empty for none. errors: error levels eps, each a row per method. radii: columns of the table. map_radii:
    radii for which a map is chosen, each a row per method and a column; empty = sigma, 2 sigma, 3 sigma. dtype: precision
    of the base classifier wherever it is sampled.
    """

    dataset: str
    preset: str
    sigma: float
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_stride: int = 1
    seed: int = 0
    train: int = 0
    tuning: int = 2000
    calibration: int = 4000
    test: int = 4000
    base_epochs: int = 40
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 0.2
    surrogate_rate: float = 0.1
    surrogate_decay: float = 0.0
    scratch_rate: float = 0.1
    weight_decay: float = 5e-4
    shift: int = 4
    flip: bool = True
    samples_per_view: int = 4
    mix: float = 0.25
    train_samples: int = 500
    reference_samples: int = 2000
    selection: int = 100
    certify: tuple[int, ...] = (100, 1000, 10000)
    audit: int = 20000
    verified: int = 500
    difficulty: int = 5000
    guard: tuple[float, ...] = (0.05, 0.12)
    errors: tuple[str, ...] = ("0.1", "0.05")
    betas: tuple[str, ...] = ("0.02", "0.05", "0.1", "0.2")
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    map_radii: tuple[float, ...] = ()
    dtype: str = "float32"
    ablations: bool = False

    def __post_init__(self) -> None:
        """Refuse before any work what counting would refuse in its midst."""
        drawn = {
            name: getattr(self, name) for name in ("train_samples", "reference_samples", "selection", "audit")
        }
        drawn.update({f"certify {budget}": budget for budget in self.certify})
        for name, draws in drawn.items():
            if draws < 1 or draws % SAMPLE_BLOCK:
                raise TrainerError(
                    f"{name}: got {draws} draws, expected a multiple of {SAMPLE_BLOCK}, in which they are stored"
                )
        if any(radius <= 0 for radius in self.map_radii):
            raise TrainerError(f"map_radii: got {self.map_radii}, expected radii above 0")

    def to_json(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        return plain(self)

    @property
    def chosen_radii(self) -> tuple[float, ...]:
        """Radii for which a map is chosen."""
        return self.map_radii or default_radii(self.sigma)

    @property
    def columns(self) -> tuple[float, ...]:
        """Radii at which certified accuracy is reported."""
        return tuple(sorted({*self.radii, *self.chosen_radii}))

    def base(self) -> dict[str, Any]:
        """The settings that decide the base classifier's weights."""
        values = self.to_json()
        return {name: values[name] for name in _BASE}

    def recipes(self) -> tuple[Recipe, ...]:
        """The surrogates of the table, and with `ablations` those that change one thing at a time."""
        ours = Recipe("ours", mix=self.mix, samples_per_view=self.samples_per_view)
        found = [
            ours,
            Recipe("paper", start="scratch", targets="stored"),
            Recipe("prior", start="scratch", targets="stored", loss="js"),
        ]
        if self.guard:
            found.append(replace(ours, name="guarded", guard=self.guard[1]))
        if self.ablations:
            found += self._changes(ours)
        return tuple(found)

    def _changes(self, ours: Recipe) -> list[Recipe]:
        """Surrogates that differ from ours, or from the paper's, in one thing."""
        blended = {"name": "a quarter of the views blended", "mix": 0.25}
        scratch = replace(ours, name="fresh, from scratch", start="scratch")
        tenth = self.train_samples // 10
        return [
            Recipe("stored, base weights", targets="stored"),
            Recipe("stored, a tenth of the draws", "scratch", "stored", stored_samples=tenth),
            replace(ours, name="one evaluation per view", samples_per_view=1),
            replace(ours, **({"name": "no blended views", "mix": 0.0} if self.mix else blended)),
            scratch,
            replace(scratch, name="fresh, from scratch, half the width", widths=self._narrower(2)),
            replace(scratch, name="fresh, from scratch, a quarter of the width", widths=self._narrower(4)),
        ]

    def _narrower(self, factor: int) -> tuple[int, ...]:
        return tuple(max(width // factor, 4) for width in self.widths)

    def epochs_of(self, recipe: Recipe) -> int:
        """Equal training compute: a fresh view costs its evaluations beside the three passes of a training step."""
        if recipe.targets == "fresh":
            return self.epochs
        return -(-self.epochs * (self.samples_per_view + 3) // 3)


_BASE = (
    "dataset", "sigma", "widths", "blocks", "stem_stride", "seed", "train", "base_epochs", "batch_size",
    "learning_rate", "weight_decay", "shift", "flip",
)  # fmt: skip

_NETWORKS: dict[str, dict[str, Any]] = {
    # Shapes by data set: (small, medium, full). Full CIFAR is the ResNet-110 that Cohen et al. smoothed.
    "small": {"widths": (16, 32, 64), "blocks": (1, 1, 1), "stem_stride": 2},
    "medium": {"widths": (32, 64, 128), "blocks": (3, 3, 3)},
    "full": {"widths": (16, 32, 64), "blocks": (18, 18, 18)},
}

_SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "train": 5000, "tuning": 300, "calibration": 700, "test": 400, "base_epochs": 12, "epochs": 8,
        "batch_size": 128, "samples_per_view": 2, "train_samples": 100, "reference_samples": 300,
        "certify": (100, 1000), "audit": 1000, "verified": 50, "difficulty": 1000, "mix": 0.0, "surrogate_rate": 0.015,
    },
    "medium": {
        "base_epochs": 30, "epochs": 20, "test": 2000, "train_samples": 200, "reference_samples": 1000, "audit": 5000,
        "dtype": "bfloat16", "batch_size": 512, "verified": 200, "mix": 0.0, "surrogate_rate": 0.06,
    },
    "full": {
        "base_epochs": 90, "epochs": 40, "train_samples": 1000, "certify": (100, 1000, 10000, 100000),
        "dtype": "bfloat16", "batch_size": 512, "mix": 0.0, "surrogate_rate": 0.06, "ablations": True,
    },
}  # fmt: skip

_DIGITS: dict[str, Any] = {
    "widths": (8, 16, 32), "blocks": (0, 1, 1), "tuning": 150, "calibration": 450, "test": 250, "base_epochs": 20,
    "epochs": 40, "batch_size": 64, "learning_rate": 0.1, "shift": 1, "flip": False, "samples_per_view": 4,
    "train_samples": 100, "reference_samples": 500, "certify": (100, 1000), "audit": 2000, "verified": 50,
    "difficulty": 400, "surrogate_decay": 5e-4,
}  # fmt: skip


def preset(dataset: str, name: str, sigma: float, **changes: Any) -> Settings:
    """The settings called `name` for a data set; `changes` replace single ones.

    Raises TrainerError for an unknown preset.
    """
    if name not in _SIZES:
        raise TrainerError(f"preset: got {name!r}, expected one of {', '.join(_SIZES)}")
    values = _DIGITS if dataset == "digits" else {**_NETWORKS[name], **_SIZES[name]}
    if dataset == "tiny-imagenet" and name != "small":
        # 64 pixels: a first stage at half size, as wide as memory traffic allows.
        values = {**values, "widths": (64, 128, 256), "blocks": (3, 4, 3), "stem_stride": 2}
    return replace(Settings(dataset, name, sigma, **values), **changes)
