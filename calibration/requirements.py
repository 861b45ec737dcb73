"""Which versions of other packages rrise takes, and the command that installs one.

rrise itself is in no package index, so a message that named it there would send its reader nowhere: what is missing is
named itself. The versions are those of pyproject.toml, as a test makes sure.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Dict, Iterable

REQUIRED = {
    "cryptography": "cryptography>=42",
    "datasets": "datasets>=2.19",
    "matplotlib": "matplotlib>=3.8",
    "mcap": "mcap>=1.1",
    "onnx": "onnx>=1.17",
    "onnxruntime": "onnxruntime>=1.18",
    "onnxscript": "onnxscript>=0.5",
    "opencv-python-headless": "opencv-python-headless>=4.8",
    "orthogonium": "orthogonium>=0.0.4",
    "openvino": "openvino>=2024.4",
    "pillow": "pillow>=10",
    "rerun-sdk": "rerun-sdk>=0.23",
    "rosbags": "rosbags>=0.10",
    "safetensors": "safetensors>=0.4",
    "scikit-learn": "scikit-learn>=1.3",
    "scipy": "scipy>=1.15",
    "tensorboard": "tensorboard>=2.15",
    "tensorrt": "tensorrt>=10.3",
    "timm": "timm>=1.0",
    "torch": "torch>=2.6",
    "torchvision": "torchvision>=0.21",
    "transformers": "transformers>=4.48",
    "wandb": "wandb>=0.17",
    "zarr": "zarr>=3.0.8",
}
"""Name in the package index -> what pyproject.toml asks of it; of TensorRT, which it does not name, what JetPack 6.2 has."""


MODULES = {"cv2": "opencv-python-headless", "PIL": "pillow", "rerun": "rerun-sdk", "sklearn": "scikit-learn"}
"""Modules that are called otherwise than their package."""

TRAINING = (
    "torch", "zarr", "safetensors", "scipy", "sklearn", "PIL", "onnx", "onnxscript", "onnxruntime",
)  # fmt: skip
"""Modules that training and export cannot do without: those of the extra `train`."""
USED_ELSEWHERE = ("scipy", "sklearn", "PIL", "onnxruntime")
"""Those of them that a command of the robot may lack as well."""


def missing(module: str) -> str:
    """What to say where an import of `module` found nothing; empty for one that no extra of rrise brings.

    Where it is one of TRAINING that nothing else uses, all of TRAINING that are absent are named at once.
    """
    root = module.split(".")[0]
    if MODULES.get(root, root) not in REQUIRED:
        return ""
    wanted = [root]
    if root in TRAINING and root not in USED_ELSEWHERE:
        wanted += [name for name in TRAINING if name != root and find_spec(name) is None]
    packages = [MODULES.get(name, name) for name in wanted]
    whole = " (all that training and export need)" if root in TRAINING and len(wanted) > 1 else ""
    return f"{packages[0]} is not installed, and this command needs it: {install(*packages)}{whole}"


def install(*packages: str) -> str:
    """The command that installs `packages`, keys of REQUIRED, as a message quotes it.

    >>> install("mcap", "rosbags")
    "`python -m pip install 'mcap>=1.1' 'rosbags>=0.10'`"
    """
    return f"`python -m pip install {' '.join(repr(REQUIRED[name]) for name in packages)}`"


def installed_versions(packages: Iterable[str]) -> Dict[str, str]:
    """Name -> installed version of each of `packages`; those that are not installed are left out."""
    import importlib.metadata  # slow to import, and few commands ask

    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
