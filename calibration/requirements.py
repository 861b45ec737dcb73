"""Which versions of other packages rrise takes, and the command that installs one.

rrise itself is in no package index, so a message that named it there would send its reader nowhere: what is missing is
named itself. The versions are those of pyproject.toml, as a test makes sure.
"""

from __future__ import annotations

REQUIRED = {
    "cryptography": "cryptography>=42",
    "datasets": "datasets>=2.19",
    "matplotlib": "matplotlib>=3.8",
    "mcap": "mcap>=1.1",
    "onnx": "onnx>=1.17",
    "onnxruntime": "onnxruntime>=1.18",
    "opencv-python-headless": "opencv-python-headless>=4.8",
    "orthogonium": "orthogonium>=0.0.4",
    "openvino": "openvino>=2024.4",
    "pillow": "pillow>=10",
    "rerun-sdk": "rerun-sdk>=0.23",
    "rosbags": "rosbags>=0.10",
    "tensorboard": "tensorboard>=2.15",
    "tensorrt": "tensorrt>=10.3",
    "timm": "timm>=1.0",
    "torch": "torch>=2.6",
    "torchvision": "torchvision>=0.21",
    "transformers": "transformers>=4.48",
    "wandb": "wandb>=0.17",
}
"""Name in the package index -> what pyproject.toml asks of it; of TensorRT, which it does not name, what JetPack 6.2 has."""


def install(*packages: str) -> str:
    """The command that installs `packages`, keys of REQUIRED, as a message quotes it.

    >>> install("mcap", "rosbags")
    "`python -m pip install 'mcap>=1.1' 'rosbags>=0.10'`"
    """
    return f"`python -m pip install {' '.join(repr(REQUIRED[name]) for name in packages)}`"
