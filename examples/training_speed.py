"""How fast the trainer trains, beside a plain PyTorch loop of the same network, frames and precision in one run.

    python examples/training_speed.py --steps 30

Both see frames that are preprocessed, augmented and made noisy alike; the plain loop draws its order and noise from one generator
and does nothing else. Rounds alternate, and the ratio is of processor time (on a GPU: of time).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np
import torch
import torch.nn.functional as F

from rrise.calibration.console import run_command, summary
from rrise.trainer.data.augment import augment
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.learning import Schedule, open_training_session, train_network
from rrise.trainer.learning.recipes import gaussian
from rrise.trainer.learning.views import View
from rrise.trainer.networks import ResNet

SIGMA, SHIFT, CLASSES = 0.25, 4, 10


@click.command()
@click.option("--size", default=32, show_default=True, help="Pixels of a side.")
@click.option("--batch", default=128, show_default=True)
@click.option("--steps", default=30, show_default=True, help="Of each round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@run_command
def main(size: int, batch: int, steps: int, rounds: int, device: str, as_json: bool) -> None:
    """Measure both loops."""
    found = measure(size, batch, steps, rounds, device)
    rows = [
        (name, f"{rate:,.0f} frames a second of processor time")
        for name, rate in found.items()
        if name != "share"
    ]
    rows.append(("the trainer reaches", f"{100 * found['share']:.1f} % of the plain loop"))
    summary("Training speed", rows, dict(found), as_json)


def measure(size: int, batch: int, steps: int, rounds: int, device: str) -> dict[str, float]:
    """Frames a second of the best round of each loop, and the trainer's share."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    labels = torch.from_numpy(random.integers(0, CLASSES, len(frames)))
    inputs = Inputs(frames, Preprocess((size, size, 3), "rgb8"))
    best = {"plain loop": 0.0, "rrise": 0.0}
    for _ in range(rounds):
        for name, run in (("plain loop", plain), ("rrise", engine)):
            taken = run(inputs, labels, batch, device)
            best[name] = max(best[name], len(frames) / taken)
    return {**best, "share": best["rrise"] / best["plain loop"]}


def network() -> ResNet:
    """309,000 parameters, the small network of the CIFAR-10 tables."""
    torch.manual_seed(0)
    return ResNet(3, CLASSES, [16, 32, 64, 128], [1, 1, 1, 1], [0.5] * 3, [0.25] * 3, stem_stride=2)


def plain(inputs: Inputs, labels: torch.Tensor, batch: int, device: str) -> float:
    """What anybody would write."""
    place = open_training_session(device=device).device
    module = network().train()
    module.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)

    def loop() -> None:
        for index in torch.randperm(len(inputs), generator=generator).split(batch):
            views = augment(inputs[index], SHIFT, True, generator)
            x = (views + SIGMA * torch.randn(views.shape, generator=generator)).to(place)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(module(x), labels[index].to(place)).backward()
            optimiser.step()

    return _timed(loop, place)


def engine(inputs: Inputs, labels: torch.Tensor, batch: int, device: str) -> float:
    """The trainer's loop, in the precision of the plain one."""
    session = open_training_session(device=device, precision="float32")
    objective = gaussian(labels.to(session.device), View(SHIFT, True), SIGMA)
    module, schedule = network(), Schedule(1, batch, 0.1, 5e-4)
    return _timed(lambda: train_network(module, schedule, inputs, objective, session), session.device)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


if __name__ == "__main__":
    main()
