"""Settings to start from that fit the data and the machine: image size, network, epochs, samples and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rrise.trainer.data.settings import DataConfig, PreprocessConfig, SplitsConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.checks import LIBRARIES
from rrise.trainer.settings.config import Config, parse_config

SMALLEST_SIDE, LARGEST_SIDE, RESIZED_SIDE = 8, 64, 32
"""Pixels that the default network is made for, and the longer side of larger images after resizing: Monte Carlo costs
as much more as there are pixels, and a first run should end within minutes."""

FRAMES_SEEN = 400_000
"""Training frames, with repeats, from which further epochs bring little to the built-in network."""

LEAST_EPOCHS, MOST_EPOCHS, LIBRARY_EPOCHS = 6, 80, 10
"""Passes over the training frames, and at most so many for a network of a library, which is large or already trained."""

TRIED: dict[str, Any] = {"recipe": "auto", "copies": 2, "strengths": (3.0, 10.0)}
"""Recipes of a base classifier that the tuning frames choose among: Gaussian noise, and consistency with these lambdas. Each is
trained on two noisy copies of a view, for half as many epochs as one copy would have."""

PRESETS = {"quick": 0.25, "standard": 1.0, "thorough": 3.0}
"""Factor on epochs and samples: to see the whole loop run, to work with, to publish."""


def config_for(source: str, shape: tuple[int, ...]) -> Config:
    """Settings to start from, as `rrise-train init` makes them, for frames that are known.

    source: "digits", or the path of a data source, which is made absolute. shape: (n, H, W, C) of its frames, all of which are
        drawn from.
    """
    where = source if source == "digits" else str(Path(source).resolve())
    num_frames, height, width, _ = shape
    return settings_for(DataConfig(where), num_frames, (height, width))


def settings_for(
    data: DataConfig,
    num_frames: int,
    size: tuple[int, int],
    *,
    seen: tuple[int, ...] | None = None,
    held_out: int | None = None,
    sigma: float = 0.25,
    network: str = "",
    weights: str = "",
    preset: str = "standard",
) -> Config:
    """Settings for a data set.

    size: (height, width) of its frames. seen: what the network sees of them, () = frames as they are; None = what suits the
    built-in network. held_out: how many frames all splits but train are drawn from; None = all are.
    network: "" for the built-in residual network, "timm/NAME" and the like, or "package.module:function" of a factory.
    weights: its safetensors file, from which it is fine-tuned ("" = it starts anew). preset: one of PRESETS; all but the quick
    one try several recipes.
    """
    check_preset(preset)
    trained = num_frames - (held_out or 0)
    seen = _size(*size) if seen is None else seen
    tables = Config(
        data=data, splits=_splits(num_frames, held_out), preprocess=PreprocessConfig(size=seen)
    ).to_json()
    tables["smoothing"]["sigma"] = sigma
    factor = PRESETS[preset]
    tables["base"] |= {**_network(network, max(seen or (min(size),))), "weights": weights}
    if data.source != "digits":
        most = LIBRARY_EPOCHS if network else MOST_EPOCHS
        epochs = min(max(round(FRAMES_SEEN / max(trained, 1)), LEAST_EPOCHS), most)
        if factor >= 1:
            tables["base"] |= TRIED | {"epochs": max(round(epochs * factor / TRIED["copies"]), LEAST_EPOCHS)}
        else:
            tables["base"]["epochs"] = max(round(epochs * factor), 2)
        tables["surrogate"]["epochs"] = max(round(epochs * factor / 2), 2)
        tables["surrogate"]["stored_epochs"] = max(round(epochs * factor), 2)
        tables["targets"]["train"] = _samples(
            (500 if trained <= 3000 else 200 if trained <= 12000 else 100) * factor
        )
    else:
        # On the digits both ways end alike (.3575 and .3580 on the tuning split), and the other one takes twice as long.
        tables["surrogate"]["method"] = "fresh"
    for name in ("tuning", "calibration", "verification"):
        tables["targets"][name] = _samples(2000 * factor)
    if factor > 1:
        tables["targets"]["audit"] = 2 * tables["targets"]["audit"]
    return parse_config(tables)


def check_preset(preset: str) -> None:
    """Refuse what is none of PRESETS."""
    if preset not in PRESETS:
        raise TrainerError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")


def _samples(number: float) -> int:
    return max(round(number / 100), 1) * 100


def _size(height: int, width: int) -> tuple[int, ...]:
    """What the built-in network sees: images up to 64 pixels as they are, larger ones at 32 on a CPU and 64 on a GPU."""
    longer = max(height, width)
    if longer <= LARGEST_SIDE:
        return ()
    factor = (2 * RESIZED_SIDE if torch.cuda.is_available() else RESIZED_SIDE) / longer
    return max(round(height * factor), SMALLEST_SIDE), max(round(width * factor), SMALLEST_SIDE)


def _splits(count: int, held_out: int | None) -> SplitsConfig:
    if held_out is not None:
        if held_out >= 4000:
            return SplitsConfig(tuning=500, calibration=1000, verification=500, test=1000)
        return SplitsConfig(tuning=0.2, calibration=0.4, verification=0.2, test=0.2)
    usual = SplitsConfig()
    if count < 2 * sum(usual.sizes().values()):
        return SplitsConfig(tuning=0.1, calibration=0.2, verification=0.12, test=0.1)
    if count >= 20_000:
        return SplitsConfig(tuning=500, calibration=1000, verification=500, test=1000)
    return usual


def names_factory(network: str) -> bool:
    """Whether a network is a "package.module:function"; what a library calls its own may hold a colon as well."""
    return ":" in network and not network.startswith(LIBRARIES)


def named_network(network: str) -> dict[str, object]:
    """The key of [base] that names a network: a factory, or one of a library."""
    return {"factory" if names_factory(network) else "network": network}


def _network(network: str, side: int) -> dict[str, object]:
    if network:
        return named_network(network)
    if side <= 16:
        return {}
    if side <= 40:
        return {"widths": (16, 32, 64), "blocks": (0, 1, 1), "shift": 2}
    return {"widths": (16, 32, 64, 128), "blocks": (0, 1, 1, 1), "stem_stride": 2, "shift": 4}
