"""rrise.toml as frozen dataclasses: every setting of a workspace, with the defaults of the digits demo."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrise.calibration.promise.objective import Objective
from rrise.calibration.storage.formats import check_format
from rrise.trainer.data.settings import DataConfig, PreprocessConfig, SplitsConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.checks import check_settings
from rrise.trainer.settings.tables import build, toml_value

FORMATS = ("rrise-settings/1",)
"""Of rrise.toml; release 0.1 did not name it."""


@dataclass(frozen=True)
class SmoothingConfig:
    """sigma: noise standard deviation in [0, 1] pixel units; seed: of all Monte Carlo noise."""

    sigma: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class BaseConfig:
    """The base classifier: a network trained here under noise, or the user's own (factory and weights).

    widths and blocks: channels and residual blocks of each stage; every stage after the first halves the size. The
    first stage may have no block: the stem alone then works at full size, which is the costly one.
    shift, flip: augmentation by random shifts of up to `shift` pixels and mirror images. balance: train on equally many
    frames of every class; no other split is touched, so that what is promised still speaks of frames as they come.
    factory: "package.module:function" that returns a torch module; weights: its safetensors file. Like the other two ways
    of bringing your own, it must not have seen the tuning, calibration, verification or test frames.
    onnx: an ONNX file, float32 [B, C, H, W] in [0, 1] -> logits.
    black_box: "package.module:function", a callable from float32 arrays [B, C, H, W] to logits [B, K] or classes [B];
    version: text that names what it is, since rrise cannot see inside and counts belong to one classifier.
    widths and blocks then describe the surrogate of an ONNX file or black box.

    network: "" is the residual network of widths and blocks, "timm/NAME", "torchvision/NAME" or "transformers/TYPE" one of a
    model library; weights: its safetensors file, never fetched. "transformers/FOLDER" is one that save_pretrained wrote, with
    its own configuration, normalisation and weights. arguments: of the factory, or of the library's model.
    train: "none" takes the weights as they are, "fine-tune" goes on from them under noise, "scratch" starts anew; "auto" is
    none for a factory with weights, fine-tune for a library's network with weights, else scratch.
    recipe: "gaussian", "consistency", or "auto": both, and the better on the tuning split is kept. copies: noisy copies
    of each view (consistency: at least two). strengths: lambdas of consistency to try; entropy: its eta. The best
    certifies most tuning frames at [guarantee] radius (0: has the largest mean radius).
    members: networks whose log-probabilities are averaged; such a base classifier never ships, so it may be heavy.
    optimiser, schedule: "auto" is sgd with one-cycle from scratch, adamw with cosine for fine-tuning. learning_rate 0: what
    fits both. layer_decay: factor on the rate from each layer to the one before it, when fine-tuning. clip: largest norm of
    a gradient, 0 = any. ema: decay of the weights' running average, such as 0.999, 0 = none.
    """

    factory: str = ""
    weights: str = ""
    network: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    train: str = "auto"
    onnx: str = ""
    black_box: str = ""
    version: str = ""
    widths: tuple[int, ...] = (8, 16, 32)
    blocks: tuple[int, ...] = (0, 1, 1)
    stem_stride: int = 1
    recipe: str = "gaussian"
    copies: int = 1
    strengths: tuple[float, ...] = (10.0,)
    entropy: float = 0.5
    members: int = 1
    epochs: int = 80
    batch_size: int = 64
    optimiser: str = "auto"
    schedule: str = "auto"
    learning_rate: float = 0.0
    weight_decay: float = 5e-4
    layer_decay: float = 0.75
    clip: float = 0.0
    ema: float = 0.0
    shift: int = 1
    flip: bool = False
    balance: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TargetsConfig:
    """Monte Carlo samples per frame: of the training targets, of the references, and of everything on test frames.

    selection: N0 of Cohen's CERTIFY; certify: its N, one independent stream each; audit: draws that judge
    issued certificates. dtype: precision in which the base classifier runs. engine: what runs it, "auto" for the fastest that
    agrees (torch, torch-compile, onnxruntime, openvino, tensorrt). batch_size 0 = found by trial.
    looks: at how many N the references may be finished and looked at; beta is split over that number from the first on,
    so it is fixed before the counts are drawn. Whoever may raise N twice needs 3.
    refine: draws of those tuning, calibration and verification frames that the first ones leave undecided at a radius of
    [guarantee]; 0 = all frames keep the first N. Beta is split over both from the first on, so it is fixed as well.
    """

    train: int = 500
    tuning: int = 2000
    calibration: int = 2000
    verification: int = 2000
    selection: int = 100
    certify: tuple[int, ...] = (100, 1000, 10000)
    audit: int = 10000
    certify_alpha: str = "0.001"
    dtype: str = "float32"
    engine: str = "auto"
    batch_size: int = 0
    looks: int = 1
    refine: int = 0


@dataclass(frozen=True)
class SurrogateConfig:
    """How the surrogate is made.

    method: "stored" (class counts from the store), "fresh" (new noise on augmented views), "auto" (both, keep the
    better on the tuning split) or "unchanged" (the base classifier's weights as they are: a yardstick).
    samples_per_view: fresh noisy evaluations of each augmented view.
    mix: share of the fresh views that are blended with another frame, which shows the surrogate what lies between
    classes, where its largest errors are. difficulty: learn a second head that says how far off it may be, from
    difficulty_frames training frames.

    start: "base" (the base classifier's weights, which hold its mistakes) or "scratch". widths, blocks: of another residual
    network than the base classifier's; it starts from scratch. members: surrogates whose log-probabilities are averaged.
    loss: "ce", and for stored counts of many samples "js", "probit" or "both". stored_samples: of the stored ones that are
    used, 0 = all. stored_views: augment and blend the frames of stored counts as well, though the counts are those of
    the frames as they are. teacher: a surrogate's file, whose probabilities at each view get the weight teacher_share
    (stored counts only).
    optimiser, schedule, layer_decay, clip, ema, balance: as in [base]. learning_rate 0: what fits the network it starts from, the
    smaller the better that is.

    copies: noisy copies of the frame, with noise that is fixed in the graph, on which the base classifier is asked beside the
    surrogate, in one batched pass; 0 = the surrogate alone. budget_ms: instead of a number, the most copies (1, 2, 4 ... 256)
    whose pass takes no longer on this machine (processor time, one thread of ONNX Runtime); 0 = none. Both can be changed
    without training the surrogate again. The base classifier must be a PyTorch network, and there is no guard.
    """

    method: str = "auto"
    start: str = "base"
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    members: int = 1
    epochs: int = 40
    stored_epochs: int = 80
    batch_size: int = 64
    optimiser: str = "auto"
    schedule: str = "auto"
    learning_rate: float = 0.0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    loss: str = "ce"
    samples_per_view: int = 4
    stored_samples: int = 0
    stored_views: bool = False
    teacher: str = ""
    teacher_share: float = 0.5
    shift: int = 1
    flip: bool = False
    balance: bool = False
    mix: float = 0.25
    difficulty: bool = False
    difficulty_frames: int = 4096
    copies: int = 0
    budget_ms: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """How base classifier and surrogate are trained on this machine; nothing here is asked of the weights.

    device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1". precision: of the forward pass, "auto" (bfloat16 where
    the hardware computes in it), "float32", "bfloat16" or "float16". compile: use torch.compile. checkpoint_minutes: work
    that a kill may cost. viewer: "tensorboard" or "wandb" beside the JSON lines in log/, an extra each.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    checkpoint_minutes: float = 2.0
    viewer: str = ""


@dataclass(frozen=True)
class GuaranteeConfig:
    """kind, error, confidence, beta: see `calibration.Guarantee`. Levels are text, so that they are read exactly.

    map: of radii; "auto" tries several on the tuning split. radius: at which most certificates are wanted; 0 = largest
    mean radius. With a radius the best map is nearly always the step, which issues that radius and no other. Several radii,
    [0.25, 0.5, 0.75], which must increase: the best map is mostly the staircase, which issues these and no others.
    weights: what a certificate of each radius is worth; empty = 1.
    frame_rate: frames per second, for wrong certificates per hour.
    """

    kind: str = "pac"
    error: str = "0.05"
    confidence: str = "0.95"
    beta: str = "0.1"
    map: str = "auto"
    radius: float | tuple[float, ...] = 0.0
    weights: tuple[float, ...] = ()
    frame_rate: float = 30.0

    @property
    def objective(self) -> Objective:
        """What `radius` and `weights` ask for; no radius is the mean radius."""
        return Objective.of(self.radius or None, self.weights)


@dataclass(frozen=True)
class GuardConfig:
    """Guarded tier: one pass on frame plus fresh noise, valid also when an attacker moved the frame by up to rho.

    rho: L2 distance in [0, 1] pixel units. noise: standard deviations to try; the best on the tuning split is kept.
    Empty: the plain one-pass tier.
    """

    rho: float = 0.0
    noise: tuple[float, ...] = ()


@dataclass(frozen=True)
class AcceptanceConfig:
    """What `rrise-export` demands of every precision before it writes a bundle; what is left out is not demanded.

    radii, certified_accuracy: least certified accuracy at each radius, on the verification frames.
    largest_offset: in [0, 1] pixel units. largest_label_flips: share of frames whose label differs from PyTorch's.
    max_drop: largest loss of certified accuracy against the bundle given as --baseline.
    """

    radii: tuple[float, ...] = ()
    certified_accuracy: tuple[float, ...] = ()
    largest_offset: float | None = None
    largest_label_flips: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Config:
    """All settings of a workspace; `Config()` is the digits demo."""

    data: DataConfig = field(default_factory=DataConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guarantee: GuaranteeConfig = field(default_factory=GuaranteeConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    acceptance: AcceptanceConfig = field(default_factory=AcceptanceConfig)

    def __post_init__(self) -> None:
        check_settings(self)

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values."""
        return asdict(self)

    def to_toml(self) -> str:
        """The text of an rrise.toml that `parse_config` reads back to an equal Config."""
        sections = [f'format = "{FORMATS[-1]}"']
        for name, section in self.to_json().items():
            lines = [f"{key} = {toml_value(value)}" for key, value in section.items() if value is not None]
            sections.append("\n".join([f"[{name}]", *lines]))
        return "\n\n".join(sections) + "\n"


def parse_config(tables: Mapping[str, Any]) -> Config:
    """Build a Config from nested tables; unknown keys and wrong types are refused with the nearest right key.

    A "format" beside the sections must be one of FORMATS; where there is none, the settings are those of release 0.1.
    """
    if isinstance(tables, Mapping):
        check_format(
            "settings",
            tables.get("format", FORMATS[0]),
            FORMATS,
            "make them anew with `rrise-train init`",
            TrainerError,
        )
        tables = {name: table for name, table in tables.items() if name != "format"}
    config: Config = build(Config, tables, "")
    return config


def load_config(path: Path) -> Config:
    """Read an rrise.toml."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise TrainerError(
            f"{path}: cannot read it ({error}); make a workspace with `rrise-train init`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainerError(f"{path}: not valid TOML ({error})") from error
    try:
        return parse_config(tables)
    except TrainerError as error:
        raise TrainerError(f"{path}: {error}") from error
