from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Interrupted, Schedule, Trained, open_training_session, train_network
from rrise.trainer.learning.checkpoint import KEY
from rrise.trainer.learning.engine import Batch, Forward
from rrise.trainer.learning.kept import Kept
from rrise.trainer.learning.order import balanced_order, order
from rrise.trainer.networks.files import read_safetensors
from tests.trainer.learning.worlds import Pixels, network, weights

LABELS = torch.tensor([0] * 70 + [2] * 6 + [5] * 20)


def test_a_plain_epoch_has_every_frame_once_in_an_order_of_its_own() -> None:
    first, second = order(96, 0, 0), order(96, 0, 1)
    assert sorted(first.tolist()) == list(range(96)) and not torch.equal(first, second)
    assert not torch.equal(second, order(96, 1, 0)), "an epoch of one seed is no other epoch of another"


@pytest.mark.parametrize("count", [96, 95, 94])
def test_every_class_is_drawn_equally_often(count: int) -> None:
    labels = LABELS[:count]
    total = torch.zeros(3, dtype=torch.int64)
    for epoch in range(7):
        drawn = balanced_order(labels, 3, epoch)
        assert len(drawn) == count, "an epoch stays as long as it was"
        sizes = torch.stack([(labels[drawn] == label).sum() for label in (0, 2, 5)])
        assert int(sizes.max() - sizes.min()) <= 1
        total += sizes
    assert int(total.max() - total.min()) <= 1, "and the one draw more is not always the same class's"


def test_no_frame_is_forgotten_and_none_comes_too_often() -> None:
    """70 frames of the common class in 32 draws an epoch: after 35 epochs each came exactly 16 times."""
    drawn = torch.cat([balanced_order(LABELS, 0, epoch) for epoch in range(35)])
    times = torch.bincount(drawn, minlength=96)
    assert times[:70].tolist() == [16] * 70
    assert set(times[70:76].tolist()) <= {186, 187} and set(times[76:].tolist()) == {56}


def test_the_order_is_mixed_and_belongs_to_seed_and_epoch() -> None:
    drawn = balanced_order(LABELS, 0, 4)
    assert torch.equal(drawn, balanced_order(LABELS, 0, 4))
    assert not torch.equal(drawn, balanced_order(LABELS, 0, 5))
    assert not torch.equal(drawn, balanced_order(LABELS, 1, 4))
    changes = (LABELS[drawn][1:] != LABELS[drawn][:-1]).float().mean()
    assert changes > 0.5, "classes alternate at random (two of three on average), not block after block"


def seen_by(folder: Path | None, minutes: float | None = None) -> tuple[nn.Module, list[int]]:
    """Train on balanced frames: the network, and the frames of all steps."""
    frames, module, seen = Pixels(), network(), []

    def objective(forward: Forward, batch: Batch) -> Tensor:
        seen.extend(batch.index.tolist())
        return forward(batch.frames).square().mean()

    session = open_training_session(folder, device="cpu", minutes=minutes)
    train_network(module, Schedule(2, 16, 0.05), frames, objective, session, balance=LABELS)
    return module, seen


def test_an_interrupted_balanced_training_sees_the_same_frames(tmp_path: Path) -> None:
    straight, seen = seen_by(None)
    assert torch.bincount(LABELS[seen]).tolist() == [64, 0, 64, 0, 0, 64]
    for _ in range(11):
        with pytest.raises(Interrupted):
            seen_by(tmp_path, minutes=0.0)
    continued, last = seen_by(tmp_path, minutes=0.0)
    assert last == seen[-16:] and torch.equal(weights(continued), weights(straight))


def test_a_checkpoint_of_another_balance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        seen_by(tmp_path, minutes=0.0)
    session = open_training_session(tmp_path, device="cpu")
    with pytest.raises(TrainerError, match="balanced: got True, expected False"):
        train_network(network(), Schedule(2, 16, 0.05), Pixels(), lambda f, b: f(b.frames).mean(), session)


def test_a_checkpoint_of_an_older_version_had_what_is_the_default_now(tmp_path: Path) -> None:
    """It names neither `balance` nor other settings that came later: there they did not exist, or were as they are by default."""
    asked: dict[str, Any] = {"settings": {"widths": [4], "newer": 0, "newest": [1]}}
    defaults = {"settings": {"newer": 0, "newest": (1,)}}

    def run(minutes: float | None = None, **options: Any) -> nn.Module:
        module, session = network(), open_training_session(tmp_path, device="cpu", minutes=minutes)
        given = {"settings": asked, "defaults": defaults, **options}
        loss = lambda forward, batch: forward(batch.frames).square().mean()  # noqa: E731
        train_network(module, Schedule(2, 16, 0.05), Pixels(), loss, session, **given)
        return module

    with pytest.raises(Interrupted):
        run(minutes=0.0)
    path = tmp_path / "checkpoints" / "training.safetensors"
    tensors, header = read_safetensors(path)
    found = json.loads(header[KEY])
    del found["settings"]["balanced"], found["settings"]["schedule"]["ema"]
    found["settings"]["settings"] = {"widths": [4]}
    save_file(tensors, path, {KEY: json.dumps(found)})
    with pytest.raises(TrainerError, match="balanced: got False, expected True"):
        run(balance=LABELS)
    with pytest.raises(TrainerError, match=r"got \{'newer': 0\}, expected \{'newer': 1\}"):
        run(settings={"settings": {**asked["settings"], "newer": 1}})
    with pytest.raises(TrainerError, match=r"got \{'newer': None, 'newest': None\}"):
        run(defaults={})
    run()


def test_finished_trainings_of_an_older_version_are_not_made_again(tmp_path: Path) -> None:
    session = open_training_session(tmp_path, device="cpu")
    made = Trained(16, 1.0, 0.5, 1, {})
    asked = {"settings": {"widths": [4], "newer": 0}}

    def run(module: nn.Module) -> Trained:
        ran.append(1)
        return made

    ran: list[int] = []
    Kept(session, {"settings": {"widths": [4]}}).network("one", {"kind": "x"}, network(), run)
    assert (
        Kept(session, asked, {"settings": {"newer": 0}}).network("one", {"kind": "x"}, network(), run) == made
    )
    assert ran == [1]
    Kept(session, asked, {"settings": {"newer": 1}}).network("one", {"kind": "x"}, network(), run)
    assert ran == [1, 1]


@pytest.mark.long
def test_two_processes_share_the_balanced_frames(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    script = tmp_path / "share.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom tests.trainer.learning.test_order import seen_by\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(repr(seen_by(None)[1]))\n"
    )
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    subprocess.run([sys.executable, *command], cwd=root, env=env, check=True, capture_output=True)
    halves = [eval((tmp_path / rank).read_text()) for rank in "01"]
    whole = [index for pair in zip(*halves, strict=True) for index in pair]
    assert whole == seen_by(None)[1]
