"""Bring your own classifier: train it in plain PyTorch, save its weights, and let rrise certify it.

    python examples/03_your_own_classifier.py --workspace runs/own

rrise needs two things of it: a factory "module:function" that builds the network, and a safetensors file with weights.
The network takes pixel values in [0, 1] and standardises them itself, if at all. It should have been trained under the
noise that it is to be smoothed with; rrise certifies any network, but few certificates come out of one that has not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from own_classifier import make
from safetensors.torch import save_file

from rrise import trainer
from rrise.calibration.console import run_command, summary
from rrise.edge_sdk import Certifier
from rrise.export import export_onnx


@click.command()
@click.option("--workspace", "folder", type=click.Path(path_type=Path), default=Path("runs/own"))
@click.option("--config", type=click.Path(path_type=Path), help="An rrise.toml with other settings.")
@click.option("--epochs", default=30, show_default=True)
@run_command
def main(folder: Path, config: Path | None, epochs: int) -> None:
    """Train a network outside rrise and bring it through to a certified frame."""
    settings = trainer.load_config(config) if config else trainer.Config()
    weights = (folder.parent / f"{folder.name}-classifier.safetensors").resolve()
    base = dataclasses.replace(settings.base, factory="own_classifier:make", weights=str(weights))
    workspace = trainer.Workspace.create(folder, dataclasses.replace(settings, base=base))
    if not weights.exists():
        train_outside(workspace, weights, epochs)

    # A factory is code that the workspace names, so every step that builds the network wants to be told to trust it.
    accuracy = trainer.train_base(workspace, allow_code=True).noisy_accuracy
    trainer.build_targets(workspace, allow_code=True)
    surrogate = trainer.train_surrogate(workspace, allow_code=True)
    released = export_onnx(folder, replace_existing=True, allow_code=True)

    with Certifier.load(released.path) as certifier:
        certificates = certifier.certify_batch(list(workspace.frames("test")))
        promise = certifier.guarantee
    radii = np.array([certificate.radius for certificate in certificates])
    rows = [
        ("accuracy of one noisy pass", f"{accuracy:.3f}"),
        ("surrogate", f"{surrogate.method}, {surrogate.candidates[0].agreement:.3f} label agreement"),
        ("test frames certified", f"{np.mean(radii > 0):.3f}, median radius {np.median(radii):.3f}"),
        ("promise", promise.sentence() if promise else "none"),
        ("bundle", str(released.path)),
    ]
    summary("Your own classifier, certified", rows, {}, False)


def train_outside(workspace: trainer.Workspace, weights: Path, epochs: int) -> None:
    """An ordinary training loop, with Gaussian noise on every frame."""
    torch.manual_seed(0)
    network = make()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    frames = torch.from_numpy(workspace.frames("train")).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(workspace.labels("train"))
    sigma = workspace.config.smoothing.sigma
    for _ in range(epochs):
        for batch in torch.randperm(len(frames)).split(64):
            noisy = frames[batch] + sigma * torch.randn_like(frames[batch])
            optimiser.zero_grad()
            F.cross_entropy(network(noisy), labels[batch]).backward()
            optimiser.step()
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), weights)


if __name__ == "__main__":
    main()
