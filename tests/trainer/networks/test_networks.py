from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from rrise.trainer.brought.network_checks import check_answers
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import (
    ResNet,
    build_network,
    load_factory,
    load_network,
    load_weights,
    read_safetensors,
    save_network,
)
from rrise.trainer.networks.files import read_header

SPEC = {
    "kind": "resnet",
    "in_channels": 1,
    "num_classes": 3,
    "widths": [4, 8],
    "blocks": [1, 1],
    "mean": [0.3],
    "std": [0.4],
}

FACTORY = """
import torch

def tiny(classes=3):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))

def wrong():
    return "no module"
"""


@pytest.fixture
def factory_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_classifier.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_classifier", raising=False)
    return "my_classifier"


def test_widths_16_32_64_with_three_blocks_is_resnet20() -> None:
    network = ResNet(3, 10, [16, 32, 64], [3, 3, 3], [0.5] * 3, [0.25] * 3)
    # 269,722 (He et al. 2016: "0.27M") + two 1x1 projection shortcuts with their normalisation
    batch_norm = 2 * (16 + 6 * 16 + 6 * 32 + 6 * 64)
    weights = 9 * 3 * 16 + 6 * 9 * 16 * 16 + 9 * (16 * 32 + 5 * 32 * 32) + 9 * (32 * 64 + 5 * 64 * 64)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert sum(p.numel() for p in network.parameters()) == weights + batch_norm + shortcuts + 650
    assert (
        sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in network.modules())
        == 19
    )


def test_standardisation_sits_inside() -> None:
    plain = build_network({**SPEC, "mean": [0.0], "std": [1.0]}).eval()
    inside = build_network(SPEC).eval()
    inside.load_state_dict(
        {**plain.state_dict(), **{k: v for k, v in inside.state_dict().items() if "standardise" in k}}
    )
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(inside(x), plain((x - 0.3) / 0.4))


def test_save_and_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).eval()
    digest = save_network(tmp_path / "n.safetensors", network, SPEC, {"sigma": 0.25})
    loaded = load_network(tmp_path / "n.safetensors")
    x = torch.rand(5, 1, 8, 8)
    assert loaded.digest == digest and loaded.metadata == {"sigma": 0.25} and not loaded.module.training
    assert torch.equal(loaded.module(x), network(x))
    assert save_network(tmp_path / "again.safetensors", network, SPEC, {"sigma": 0.25}) == digest


def test_nan_weights_are_refused_on_both_ways(tmp_path: Path) -> None:
    network = build_network(SPEC)
    save_network(tmp_path / "good.safetensors", network, SPEC, {})
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")  # type: ignore[operator, union-attr]
    with pytest.raises(TrainerError, match=r"'head.weight' holds 1 NaN"):
        save_network(tmp_path / "good.safetensors", network, SPEC, {})
    assert load_network(tmp_path / "good.safetensors"), "the good file is still there"
    with pytest.raises(TrainerError, match="NaN"):
        load_weights(build_network(SPEC), network.state_dict(), "bad")


def test_weights_of_another_network(tmp_path: Path) -> None:
    other = build_network({**SPEC, "num_classes": 4})
    with pytest.raises(TrainerError, match="do not fit"):
        load_weights(build_network(SPEC), other.state_dict(), "other")


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_unreadable_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(TrainerError, match="not a readable safetensors"):
        read_safetensors(tmp_path / "x.safetensors")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(TrainerError, match="no such file"):
        load_network(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(TrainerError, match="not written by rrise-train"):
        load_network(tmp_path / "foreign.safetensors")


def test_factory_needs_the_flag(factory_module: str) -> None:
    with pytest.raises(TrainerError, match="--allow-code"):
        load_factory(f"{factory_module}:tiny")
    assert factory_module not in sys.modules, "nothing was imported"
    network = load_factory(f"{factory_module}:tiny", {"classes": 5}, allow_code=True)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_classifier", "expected 'package.module:function'"),
        ("my_classifier:", "expected 'package.module:function'"),
        ("my_classifier:missing", "cannot import"),
        ("no_such_module:f", "cannot import"),
        ("my_classifier:wrong", "returned str, expected a torch.nn.Module"),
    ],
)
def test_bad_factories(factory_module: str, name: str, message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        load_factory(name, allow_code=True)


def test_factory_network_file_needs_the_flag_too(tmp_path: Path, factory_module: str) -> None:
    spec = {"kind": "factory", "factory": f"{factory_module}:tiny", "arguments": {}}
    network = build_network(spec, allow_code=True)
    save_network(tmp_path / "n.safetensors", network, spec, {})
    with pytest.raises(TrainerError, match="--allow-code"):
        load_network(tmp_path / "n.safetensors")
    assert load_network(tmp_path / "n.safetensors", allow_code=True)


def test_check_answers() -> None:
    network = build_network(SPEC).eval()
    example = torch.zeros(2, 1, 8, 8)
    check_answers(network, example, 3, "network")
    with pytest.raises(TrainerError, match=r"returned \[2, 3\], expected logits of shape \[2, 10\]"):
        check_answers(network, example, 10, "network")
    with pytest.raises(TrainerError, match="NaN"):
        check_answers(network, example + float("nan"), 3, "network")


def test_unknown_kind() -> None:
    with pytest.raises(TrainerError, match="kind 'vit'"):
        build_network({"kind": "vit"})


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    """Safetensors has no checksum: without one of ours it is another network, and nothing shows that nobody trained it."""
    path = tmp_path / "a.safetensors"
    save_network(path, build_network(SPEC), SPEC, {})
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TrainerError, match="weights were changed after they were written"):
        load_network(path)


def test_the_refusal_of_a_pickle_shows_a_line_that_converts_it(tmp_path: Path) -> None:
    wanted = {"state_dict": {"a": torch.arange(3.0), "b": torch.ones(2, 2).t()}}
    torch.save(wanted, tmp_path / "old.pth")
    with pytest.raises(TrainerError, match="convert it once") as caught:
        read_safetensors(tmp_path / "old.pth")
    line = str(caught.value).split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    found = read_safetensors(tmp_path / "old.safetensors")[0]
    assert set(found) == {"a", "b"} and torch.equal(found["a"], torch.arange(3.0))


@pytest.mark.parametrize("header", ["[" * 100_000, "not JSON", "[1]", '{"format": "rrise-network/2"}'])
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, header: str) -> None:
    """A header of nested lists ended the command with a RecursionError."""
    path = tmp_path / "base.safetensors"
    path.write_bytes(save({"w": torch.zeros(1)}, {"rrise": header}))
    with pytest.raises(TrainerError, match=r"base.safetensors: its header"):
        read_header(path)
