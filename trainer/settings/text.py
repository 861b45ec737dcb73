"""rrise.toml as `rrise-train init` writes it: every setting with a comment that says what it decides."""

from __future__ import annotations

from collections.abc import Mapping

from rrise.calibration.promise.kinds import KINDS
from rrise.trainer.settings.config import Config

SECTIONS = {
    "data": "Where the frames come from.",
    "splits": "Frames (whole numbers) or shares of all frames; train gets the rest. Edit them before the first stage, which\n"
    "# draws the splits: afterwards they are fixed. Levels and kind of [guarantee] say how many calibration frames are needed.",
    "preprocess": "From the camera's frame to what the network sees, and what radii are measured in.",
    "smoothing": "The noise that certificates are about.",
    "base": "The base classifier: trained here under noise, or your own. See trainer/README.md.",
    "targets": "Monte Carlo samples per frame, multiples of 100. They cost the most.",
    "surrogate": "The one-pass network that predicts class counts.",
    "training": "How networks are trained: device, precision, checkpoints.",
    "guarantee": "What is promised. Levels are text, so that they are read exactly.",
    "guard": "The tier that also holds once an attacker moved the frame by up to rho; empty = the plain one.",
    "acceptance": "What rrise-export demands before it writes a bundle; what is left out is not demanded.",
}

COMMENTS = {
    "data.source": "digits, .npz, folder of class folders (images, videos or bags), .csv/.jsonl listing, Zarr group, "
    ".tar shards, Hugging Face data set",
    "data.held_out": "another such source: tuning, calibration, verification and test come from it alone",
    "data.camera": "[height, width] that the robot's camera delivers; empty = the size of the images",
    "data.clips": 'which file names belong together, such as "{clip}_{frame}"; frames of a clip stay in one split',
    "data.every": "of videos, bags and MCAP files: each so-many-th frame is taken",
    "data.topic": "of bags and MCAP files; empty = the only image topic",
    "data.skip_broken": "leave out images that cannot be read, and record which",
    "splits.seed": "of the draw",
    "splits.tuning": "what is chosen by data is chosen here",
    "splits.calibration": "the promise rests on these frames: more of them, larger radii",
    "splits.verification": "check every exported file and every device",
    "splits.test": "what reports speak of",
    "preprocess.crop": "[top, left, height, width] of the camera's frame; empty = all of it",
    "preprocess.size": "[height, width] that the network sees; Monte Carlo costs as much more as there are pixels",
    "preprocess.encoding": "what the robot's camera delivers: rgb8, bgr8 (OpenCV), mono8; auto = rgb8 or mono8",
    "smoothing.sigma": "standard deviation, where a pixel is 0 (black) to 1 (white); larger: larger radii, fewer of them",
    "smoothing.seed": "of all Monte Carlo noise",
    "base.factory": '"package.module:function" that returns your torch module',
    "base.weights": "its safetensors file",
    "base.network": '"timm/NAME", "torchvision/NAME", "transformers/TYPE" or "transformers/FOLDER"; empty = the network below',
    "base.onnx": "or your own ONNX file",
    "base.black_box": 'or any callable, "package.module:function", with a version',
    "base.widths": "channels of each stage; every stage after the first halves the size",
    "base.blocks": "residual blocks of each stage",
    "base.stem_stride": "2 halves the size before the first stage",
    "base.epochs": "passes over the training frames",
    "base.shift": "augmentation: random shifts of up to so many pixels",
    "base.flip": "augmentation: mirror images, where left and right mean the same",
    "base.balance": "train on equally many frames of every class; calibration stays as it is",
    "targets.train": "of each training frame",
    "targets.calibration": "of each calibration frame; references are lower bounds, which more samples bring nearer",
    "targets.refine": "draws of the frames whose first draws do not decide at a wanted radius, such as 10000; 0 = none go on",
    "targets.certify": "budgets of Cohen's CERTIFY, for comparison only",
    "targets.audit": "draws that judge issued certificates on test frames",
    "targets.dtype": "bfloat16 counts twice as fast where the processor has it",
    "surrogate.method": "stored, fresh, unchanged, or auto: the first two, and the better on the tuning split is kept",
    "surrogate.balance": "as in [base]",
    "surrogate.difficulty": "learn how far off the surrogate may be, frame by frame",
    "surrogate.copies": "noisy copies of the frame that the base classifier sees in the same pass; 0 = the surrogate alone",
    "surrogate.budget_ms": "or as many copies as fit so many milliseconds a pass, measured on this machine",
    "guarantee.kind": f"{', '.join(KINDS[:-1])} or {KINDS[-1]}",
    "guarantee.error": "share of new frames that may receive a wrong certificate",
    "guarantee.confidence": "with which the promise holds over the calibration frames",
    "guarantee.radius": "the radius that the robot needs, or a list of them; 0 = large radii on average",
    "guarantee.frame_rate": "frames a second, to count wrong certificates an hour",
    "guard.rho": "L2 distance, where a pixel is 0 to 1",
    "guard.noise": "standard deviations to try",
}


def commented(config: Config, notes: Mapping[str, str] | None = None) -> str:
    """The text of an rrise.toml with comments, which `parse_config` reads back to an equal Config.

    notes: further comments by setting ("base.epochs"), such as why init chose the value.
    """
    lines: list[str] = []
    section = ""
    for line in config.to_toml().splitlines():
        if line.startswith("["):
            section = line.strip("[]").split(".")[0]
            lines += [f"# {SECTIONS[section]}"] if section in SECTIONS and "." not in line else []
        key = f"{section}.{line.split(' = ')[0]}" if " = " in line else ""
        said = "; ".join(text for text in (COMMENTS.get(key, ""), (notes or {}).get(key, "")) if text)
        if said and len(line) + len(said) > 100:
            lines.append(f"# {said}")
            said = ""
        lines.append(f"{line}  # {said}" if said else line)
    return "\n".join(lines) + "\n"
