"""What rrise.toml must not say: settings that cannot work, or cannot work together."""

from __future__ import annotations

import difflib
import itertools
import math
from typing import TYPE_CHECKING

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.kinds import KINDS
from rrise.calibration.statistics.levels import parse_level
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.losses import LOSSES
from rrise.trainer.montecarlo.storage.identity import SAMPLE_BLOCK

if TYPE_CHECKING:
    from rrise.trainer.settings.config import BaseConfig, Config, GuaranteeConfig, SurrogateConfig

ENCODINGS = ("auto", "rgb8", "bgr8", "mono8")
ENGINES = ("auto", "torch", "torch-compile", "onnxruntime", "openvino", "tensorrt")
METHODS = ("auto", "stored", "fresh", "unchanged")
RECIPES = ("auto", "gaussian", "consistency")
TRAIN = ("auto", "none", "fine-tune", "scratch")
OPTIMISERS, SCHEDULES = ("auto", "sgd", "adamw"), ("auto", "one-cycle", "cosine")
PRECISIONS, VIEWERS = ("auto", "float32", "bfloat16", "float16"), ("", "tensorboard", "wandb")
LIBRARIES = ("timm/", "torchvision/", "transformers/")
LARGEST_COPIES = 256
MAPS = ("auto", "clopper-pearson", "identity", "staircase")


def check_settings(config: Config) -> None:
    """Refuse settings that cannot work together."""
    _check_choices(config)
    _check_numbers(config)
    _check_networks(config.base)
    _check_guarantee(config)
    _check_copies(config)
    parse_level(config.targets.certify_alpha, "[targets] certify_alpha")


def _check_guarantee(config: Config) -> None:
    asked, guard = config.guarantee, config.guard
    if guard.rho and not guard.noise:
        raise TrainerError(
            f"[guard] rho = {guard.rho}: got no noise, expected standard deviations such as [0.12]"
        )
    _check_radius(asked)
    for noise in guard.noise or (None,):
        chosen = None if noise is None else Guard(guard.rho, noise)
        Guarantee.of(asked.kind, asked.error, asked.confidence, asked.beta, chosen).frames_needed()


def _check_copies(config: Config) -> None:
    """Where copies are proved and possible, told before anything is trained."""
    asked, base = config.surrogate, config.base
    if not 0 <= asked.copies <= LARGEST_COPIES:
        raise TrainerError(
            f"[surrogate] copies: got {asked.copies}, expected 0 (the surrogate alone) to {LARGEST_COPIES}; beyond that "
            "CERTIFY, which speaks of the single frame, is the better use of so many passes"
        )
    if asked.copies and asked.budget_ms:
        raise TrainerError(
            "[surrogate] copies and budget_ms exclude each other: got both, expected a number of copies or the time that a "
            "pass may take"
        )
    if not asked.copies and not asked.budget_ms:
        return
    if config.guard.rho or config.guard.noise:
        raise TrainerError(
            "[surrogate] copies with [guard]: the proof covers them (fixed fields are constants of the graph, as weights are; "
            "the guard's own noise must be fresh), but here the pool is fitted on frames without that noise, and nothing was "
            "measured; set copies = 0 and budget_ms = 0, or remove rho and noise from [guard]"
        )
    if base.onnx or base.black_box:
        raise TrainerError(
            "[surrogate] copies: got a base classifier that is an ONNX file or a black box, expected a PyTorch network, which "
            "can be put into the exported graph; give it as [base] factory and weights, or set copies = 0 and budget_ms = 0"
        )


def _check_radius(asked: GuaranteeConfig) -> None:
    got = asked.radius
    if isinstance(got, tuple):
        sound = bool(got) and got[0] > 0 and all(before < after for before, after in itertools.pairwise(got))
    else:
        sound = got >= 0
    if not sound:
        shown = list(got) if isinstance(got, tuple) else got
        raise TrainerError(
            f"[guarantee] radius: got {shown}, expected 0, a positive radius, or a list of positive radii that increase"
        )
    count = len(got) if isinstance(got, tuple) else int(got > 0)
    if asked.weights and (len(asked.weights) != count or not all(weight > 0 for weight in asked.weights)):
        raise TrainerError(
            f"[guarantee] weights: got {list(asked.weights)}, expected a positive number for each of the {count} radii"
        )
    if asked.map == "staircase" and not count:
        raise TrainerError(
            "[guarantee] map: got 'staircase' without a radius, expected radius = [0.25, 0.5, 0.75] or the like"
        )


def _check_choices(config: Config) -> None:
    choices = [
        ("[preprocess] encoding", config.preprocess.encoding, ENCODINGS),
        ("[base] recipe", config.base.recipe, RECIPES),
        ("[base] train", config.base.train, TRAIN),
        ("[surrogate] method", config.surrogate.method, METHODS),
        ("[surrogate] start", config.surrogate.start, ("base", "scratch")),
        ("[surrogate] loss", config.surrogate.loss, LOSSES),
        ("[training] precision", config.training.precision, PRECISIONS),
        ("[training] viewer", config.training.viewer, VIEWERS),
        ("[guarantee] kind", config.guarantee.kind, KINDS),
        ("[guarantee] map", config.guarantee.map, MAPS),
        ("[targets] dtype", config.targets.dtype, ("float32", "bfloat16", "float16")),
        ("[targets] engine", config.targets.engine, ENGINES),
    ]
    for name, section in _learning(config):
        choices.append((f"[{name}] optimiser", section.optimiser, OPTIMISERS))
        choices.append((f"[{name}] schedule", section.schedule, SCHEDULES))
    for name, got, allowed in choices:
        if got not in allowed:
            raise TrainerError(
                f"{name}: got {got!r}, expected one of {', '.join(allowed)}{nearest(got, allowed)}"
            )


def _learning(config: Config) -> tuple[tuple[str, BaseConfig | SurrogateConfig], ...]:
    """The sections that train a network."""
    return ("base", config.base), ("surrogate", config.surrogate)


def _check_numbers(config: Config) -> None:
    positive: list[tuple[str, float]] = [
        ("[smoothing] sigma", config.smoothing.sigma),
        ("[guarantee] frame_rate", config.guarantee.frame_rate),
        ("[surrogate] samples_per_view", config.surrogate.samples_per_view),
        ("[surrogate] stored_epochs", config.surrogate.stored_epochs),
        ("[base] stem_stride", config.base.stem_stride),
        ("[data] every", config.data.every),
    ]
    positive += [(f"[targets] {name}", getattr(config.targets, name)) for name in _STREAM_SIZES]
    positive += [("[targets] certify", size) for size in config.targets.certify]
    positive.append(("[targets] looks", config.targets.looks))
    positive += [(f"[splits] {name}", size) for name, size in config.splits.sizes().items()]
    for name, section in _learning(config):
        positive += [
            (f"[{name}] {key}", getattr(section, key)) for key in ("epochs", "batch_size", "members")
        ]
    positive += [("[base] copies", config.base.copies), ("[training] checkpoint_minutes", _minutes(config))]
    positive += [("[surrogate] difficulty_frames", config.surrogate.difficulty_frames)]
    for name, value in positive:
        if not (value > 0 and math.isfinite(value)):
            hint = "; sigma is the noise level in [0, 1] pixel units, such as 0.25" if "sigma" in name else ""
            raise TrainerError(f"{name}: got {value}, expected a number above 0{hint}")
    _check_sigma(config.smoothing.sigma)
    _check_samples(config)
    not_negative: list[tuple[str, float]] = [("[targets] batch_size", config.targets.batch_size)]
    for name, table in config.to_json().items():
        not_negative += [(f"[{name}] {key}", table[key]) for key in _NOT_NEGATIVE if key in table]
    not_negative += [("[base] strengths", value) for value in config.base.strengths]
    for name, value in not_negative:
        if not (value >= 0 and math.isfinite(value)):
            raise TrainerError(f"{name}: got {value}, expected 0 or a number above it")
    _check_refinement(config)
    budgets = config.targets.certify
    if not budgets or len(set(budgets)) != len(budgets):
        raise TrainerError(
            f"[targets] certify: got {list(budgets)}, expected different numbers of samples such as [100, 1000]"
        )
    _check_shares(config)
    for name, size in config.splits.sizes().items():
        if isinstance(size, float) and size >= 1:
            raise TrainerError(
                f"[splits] {name}: got {size}, expected whole frames (200) or a share below 1 (0.1)"
            )


def _check_refinement(config: Config) -> None:
    asked = config.targets
    largest = max(asked.tuning, asked.calibration, asked.verification)
    if asked.refine and asked.refine <= largest:
        raise TrainerError(
            f"[targets] refine: got {asked.refine}, expected 0 or more than the {largest} draws that every frame has first"
        )
    if asked.refine and asked.looks > 1:
        raise TrainerError(
            f"[targets] refine: got {asked.refine} with looks = {asked.looks}, expected one of both: each splits beta over the "
            "numbers of draws; set looks = 1 or refine = 0"
        )


def _minutes(config: Config) -> float:
    return config.training.checkpoint_minutes


def _check_shares(config: Config) -> None:
    asked = config.surrogate
    shares = [("[surrogate] mix", asked.mix), ("[surrogate] teacher_share", asked.teacher_share)]
    for name, section in _learning(config):
        shares += [(f"[{name}] ema", section.ema), (f"[{name}] layer_decay", section.layer_decay)]
    for name, value in shares:
        if not 0 <= value <= 1:
            raise TrainerError(f"{name}: got {value}, expected a share between 0 and 1")


def _check_sigma(sigma: float) -> None:
    """Levels of 0..255 taken for [0, 1], or divided by 255 twice, train without an error and are worth nothing."""
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        unit = f"{sigma:g} / 255 = {sigma / 255:.3g}" if sigma > 1 else f"{sigma:g} * 255 = {sigma * 255:.3g}"
        raise TrainerError(
            f"[smoothing] sigma: got {sigma:g}, expected {SMALLEST_SIGMA} to {LARGEST_SIGMA}, such as 0.25. Its unit is the "
            f"whole range of a pixel, from black 0 to white 1; if {sigma:g} is meant in another unit, write {unit}"
        )


def _check_samples(config: Config) -> None:
    """Samples are drawn in blocks; told here, before anything is trained."""
    asked = [(f"[targets] {name}", getattr(config.targets, name)) for name in _STREAM_SIZES]
    asked += [("[targets] certify", size) for size in config.targets.certify]
    asked.append(("[targets] refine", config.targets.refine))
    for name, size in asked:
        if size % SAMPLE_BLOCK:
            below = max(size // SAMPLE_BLOCK, 1) * SAMPLE_BLOCK
            raise TrainerError(
                f"{name}: got {size}, expected a multiple of {SAMPLE_BLOCK}, in which samples are drawn; the nearest are "
                f"{below} and {below + SAMPLE_BLOCK}"
            )


SMALLEST_SIGMA, LARGEST_SIGMA = 0.004, 4.0
"""One level of 255 is 0.0039."""

_NOT_NEGATIVE = (
    "seed",
    "refine",
    "budget_ms",
    "shift",
    "weight_decay",
    "learning_rate",
    "clip",
    "entropy",
    "stored_samples",
)
_STREAM_SIZES = ("train", "tuning", "calibration", "verification", "selection", "audit")


def _check_networks(base: BaseConfig) -> None:
    stages = len(base.widths) == len(base.blocks) > 0
    if not stages or min((*base.widths, *base.blocks[1:])) < 1 or base.blocks[0] < 0:
        raise TrainerError(
            f"[base] widths {list(base.widths)} and blocks {list(base.blocks)}: expected the same number of "
            "positive entries, one per stage (only the first stage may have 0 blocks)"
        )
    if sum(map(bool, (base.factory, base.onnx, base.black_box))) > 1:
        raise TrainerError(
            "[base] factory, onnx and black_box exclude each other: expected at most one of them"
        )
    if bool(base.black_box) != bool(base.version):
        raise TrainerError(
            "[base] black_box and version go together: the version names what the callable is, so that counts of another "
            "one are refused"
        )
    if base.network and not base.network.startswith(LIBRARIES):
        raise TrainerError(
            f"[base] network: got {base.network!r}, expected {', '.join(name + 'NAME' for name in LIBRARIES)}, or nothing "
            'for the residual network of widths and blocks; a network of your own is a factory, "package.module:function"'
        )
    if base.network and (base.factory or base.onnx or base.black_box):
        raise TrainerError(
            "[base] network excludes factory, onnx and black_box: expected at most one of them"
        )
    own = base.factory or base.network
    if base.weights and not own:
        raise TrainerError(
            "[base] weights: got a file, expected a factory or a network that it belongs to as well (`init --network`)"
        )
    folder = base.network.startswith("transformers/")  # which may hold its weights
    if base.train in ("none", "fine-tune") and own and not base.weights and not folder:
        raise TrainerError(f"[base] train = {base.train!r}: got no weights, expected the file to start from")
    if base.factory and not base.weights and base.train != "scratch":
        raise TrainerError(
            f"[base] factory: got {base.factory!r} without weights, expected both for your own classifier "
            '(`init --weights FILE`), or train = "scratch"'
        )
    if base.recipe != "gaussian" and not base.strengths:
        raise TrainerError(
            f"[base] recipe = {base.recipe!r}: got no strengths, expected lambdas such as [10.0]"
        )


def nearest(got: str, allowed: tuple[str, ...] | list[str]) -> str:
    """The question whether the nearest allowed word is meant, or nothing."""
    match = difflib.get_close_matches(str(got), list(allowed), n=1, cutoff=0.5)
    return f". Did you mean {match[0]!r}?" if match else ""
