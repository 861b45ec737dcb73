from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Interrupted, Schedule, open_training_session, train_network
from rrise.trainer.learning.checkpoint import KEY
from rrise.trainer.learning.engine import Batch, Forward, _seed_network
from rrise.trainer.learning.recipes import gaussian
from rrise.trainer.learning.views import View
from rrise.trainer.networks import read_safetensors
from tests.trainer.learning.worlds import SIGMA, Pixels, accuracy, learn, loss, network, weights

STEPS = 4 * (96 // 16)


def test_a_step_seeds_what_the_network_draws_as_pytorch_would() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = torch.rand(3)
        _seed_network(7, torch.device("cpu"))
        assert torch.equal(torch.rand(3), expected)


def test_learns_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    module, trained = learn(tmp_path, Schedule(20, 16, 0.1))
    assert accuracy(module) > 0.8 and not module.training
    assert trained.examples == 20 * 96 and trained.parts == 1
    assert trained.machine == {
        "device": "cpu", "precision": "float32", "processes": 1, "torch": torch.__version__
    }  # fmt: skip


def test_the_same_training_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = weights(learn()[0]), weights(learn()[0])
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
    other = weights(learn(schedule=Schedule(4, 16, 0.05, ema=0.9, seed=1))[0])
    assert not torch.equal(first, other)


def done(folder: Path) -> int:
    """Steps that the checkpoint holds."""
    return int(json.loads(read_safetensors(checkpoint(folder))[1][KEY])["position"]["steps"])


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "training.safetensors"


def test_killed_in_the_middle_of_an_epoch_it_continues_bit_for_bit(tmp_path: Path) -> None:
    straight, trained = learn()
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.learning.worlds", str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        stdout=subprocess.PIPE,
    )
    while not checkpoint(tmp_path).exists() or done(tmp_path) < 8:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = done(tmp_path)
    assert 8 <= steps < STEPS and steps % 6, "in the middle of an epoch"
    continued, again = learn(tmp_path)
    assert torch.equal(weights(continued), weights(straight))
    assert again.loss == trained.loss and again.examples == trained.examples


def test_continues_from_the_middle_whatever_step_that_is(tmp_path: Path) -> None:
    """Dropout, averages of the weights, momentum: everything that a step depends on is restored."""
    straight = weights(learn()[0])
    stops = 0
    for _ in range(STEPS + 1):
        try:
            module, _ = learn(tmp_path, minutes=0.0)
        except Interrupted:
            stops += 1
            assert done(tmp_path) == stops
        else:
            break
    assert stops == STEPS - 1, "each call took one step and saved"
    assert torch.equal(weights(module), straight)


def test_a_stop_is_a_stop_of_everything_saved(tmp_path: Path) -> None:
    with pytest.raises(
        Interrupted, match=r"time limit is reached after 4 % .* everything is saved; the same command"
    ):
        learn(tmp_path, minutes=0.0)
    with pytest.raises(Interrupted, match="nothing was kept"):
        learn(None, minutes=0.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_saves_and_the_handlers_are_given_back(tmp_path: Path, number: signal.Signals) -> None:
    frames, before = Pixels(), signal.getsignal(number)
    wanted = gaussian(frames.labels, View(), SIGMA)

    def objective(forward: Forward, batch: Batch) -> Tensor:
        os.kill(os.getpid(), number)
        return wanted(forward, batch)

    with pytest.raises(Interrupted, match=f"{number.name} was received"):
        train_network(
            network(), Schedule(4, 16, 0.05), frames, objective, open_training_session(tmp_path, device="cpu")
        )
    assert checkpoint(tmp_path).exists() and signal.getsignal(number) is before


def test_other_settings_are_refused_by_name_or_started_over(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        learn(tmp_path, minutes=0.0)
    other = Schedule(4, 16, 0.07, ema=0.9)
    with pytest.raises(
        TrainerError,
        match=r"schedule: got {'learning_rate': 0.05}, expected {'learning_rate': 0.07}.*--again",
    ):
        learn(tmp_path, other)
    with pytest.raises(
        TrainerError, match=r"machine: got {'precision': 'float32'}, expected {'precision': 'bfloat16'}"
    ):
        learn(tmp_path, precision="bfloat16")
    frames = Pixels()
    session = open_training_session(tmp_path, device="cpu", again=True)
    trained = train_network(network(), other, frames, gaussian(frames.labels, View(), SIGMA), session)
    assert trained.examples == 4 * 96


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes) -> None:
    checkpoint(tmp_path).parent.mkdir()
    checkpoint(tmp_path).write_bytes(damage)
    with pytest.raises(TrainerError, match=r"training.safetensors: not a readable safetensors file"):
        learn(tmp_path)


def out_of_memory_above(limit: int, seen: list[int]):
    frames = Pixels()
    wanted = gaussian(frames.labels, View(), SIGMA)

    def objective(forward: Forward, batch: Batch) -> Tensor:
        seen.append(len(batch.index))
        if len(batch.index) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return wanted(forward, batch)

    return frames, objective


def test_out_of_memory_cuts_the_batch(tmp_path: Path) -> None:
    seen: list[int] = []
    frames, objective = out_of_memory_above(5, seen)
    trained = train_network(
        network(), Schedule(1, 16, 0.05), frames, objective, open_training_session(tmp_path, device="cpu")
    )
    assert seen[:3] == [16, 8, 4] and set(seen[3:]) == {4}
    assert trained.parts == 4 and trained.examples == 96


def test_pieces_give_the_gradient_of_the_whole_batch() -> None:
    """Without noise, dropout and batch statistics a batch in pieces is the same batch."""
    frames = Pixels()
    ended = []
    for limit in (16, 4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

        def plain(forward: Forward, batch: Batch, limit: int = limit) -> Tensor:
            if len(batch.index) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return nn.functional.cross_entropy(forward(batch.frames), frames.labels[batch.index])

        train_network(module, Schedule(2, 16, 0.1), frames, plain, open_training_session(device="cpu"))
        ended.append(weights(module))
    torch.testing.assert_close(*ended, rtol=1e-5, atol=1e-6)


def test_out_of_memory_with_a_single_frame_is_refused() -> None:
    frames, objective = out_of_memory_above(0, [])
    with pytest.raises(
        TrainerError, match="out of memory on cpu with 1 frames at once; expected room for at least one"
    ):
        train_network(
            network(), Schedule(1, 16, 0.05), frames, objective, open_training_session(device="cpu")
        )


def test_other_errors_of_a_network_pass_as_they_are() -> None:
    frames = Pixels()

    def objective(forward: Forward, batch: Batch) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_network(
            network(), Schedule(1, 16, 0.05), frames, objective, open_training_session(device="cpu")
        )


def test_a_loss_that_is_not_finite_is_refused_and_never_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"the loss became (nan|inf) in epoch \d.*lower the learning_rate"):
        learn(tmp_path, Schedule(4, 16, 1e30))
    assert not checkpoint(tmp_path).exists()


class Views(nn.Module):
    """Takes no channels_last input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.conv(x).view(len(x), -1))
        return found


def test_a_network_that_calls_view_is_trained_in_its_own_layout() -> None:
    frames, module = Pixels(), Views()
    before = loss(module)
    train_network(
        module,
        Schedule(5, 16, 0.05),
        frames,
        gaussian(frames.labels, View(), SIGMA),
        open_training_session(device="cpu"),
    )
    assert loss(module) < before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_too_and_keeps_float32_weights(tmp_path: Path, precision: str) -> None:
    module, trained = learn(tmp_path, Schedule(12, 16, 0.1), precision=precision)
    assert accuracy(module) > 0.7 and trained.machine["precision"] == precision
    assert {value.dtype for value in module.parameters()} == {torch.float32}


def test_half_precision_continues_with_its_gradient_scale(tmp_path: Path) -> None:
    straight = weights(learn(precision="float16")[0])
    with pytest.raises(Interrupted):
        learn(tmp_path, minutes=0.0, precision="float16")
    assert torch.equal(weights(learn(tmp_path, precision="float16")[0]), straight)


def test_what_it_measures_changes_nothing(tmp_path: Path) -> None:
    frames, ended = Pixels(), []
    for measure in (
        None,
        lambda module: {"noisy_accuracy": float(module(frames.images).argmax(1).float().mean())},
    ):
        module = network()
        session = open_training_session(tmp_path if measure else None, device="cpu")
        train_network(
            module,
            Schedule(3, 16, 0.05),
            frames,
            gaussian(frames.labels, View(), SIGMA),
            session,
            measure=measure,
        )
        ended.append(weights(module))
    assert torch.equal(*ended)
    lines = [json.loads(line) for line in (tmp_path / "log" / "training.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1.0, 2.0, 3.0]
    assert lines[-1]["step"] == 18 and lines[-1]["seconds_left"] == 0 and "noisy_accuracy" in lines[0]
    assert all(line["loss"] > 0 and line["examples_per_second"] > 0 for line in lines)


def test_the_average_of_the_weights_is_what_comes_out() -> None:
    """Against a run of the same steps whose weights are averaged outside."""
    schedule, frames, seen = Schedule(2, 16, 0.2), Pixels(), []
    module, wanted = network(), gaussian(frames.labels, View(), SIGMA)

    def objective(forward: Forward, batch: Batch) -> Tensor:
        seen.append({name: value.clone() for name, value in module.state_dict().items()})
        return wanted(forward, batch)

    train_network(module, schedule, frames, objective, open_training_session(device="cpu"))
    after = [*seen[1:], module.state_dict()]
    averaged = seen[0]["5.weight"]
    for step, state in enumerate(after):
        averaged = averaged.lerp(state["5.weight"], 1 - min(0.9, (1 + step) / (10 + step)))
    averaging = network()
    train_network(averaging, replace(schedule, ema=0.9), frames, wanted, open_training_session(device="cpu"))
    torch.testing.assert_close(averaging.state_dict()["5.weight"], averaged)
    assert not torch.allclose(averaged, module.state_dict()["5.weight"], atol=1e-3)
