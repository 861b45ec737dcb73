"""A user's own networks: what is handled, and what is refused with its cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrise.trainer.brought.network_checks import (
    check_answers,
    check_finite,
    check_trainable,
    fitted,
    prepare_network,
)
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import load_factory, load_network, load_weights, save_network

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()
        self.head = self.net[3]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "model.net."]
)
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    weights, target = plain().state_dict(), plain()
    with torch.no_grad():
        target[0].weight.zero_()  # type: ignore[operator]
    load_weights(target, {prefix + name: value for name, value in weights.items()}, "w.safetensors")
    assert torch.equal(target[0].weight, weights["0.weight"])  # type: ignore[arg-type]


def test_compiled_parts_and_averaged_models() -> None:
    weights = Tied().state_dict()
    inner = {name.replace("net.", "net._orig_mod."): value for name, value in weights.items()}
    assert set(fitted(Tied(), inner, "w")) == set(weights)
    averaged = torch.optim.swa_utils.AveragedModel(plain()).state_dict()
    assert set(fitted(plain(), averaged, "w")) == set(plain().state_dict())


def test_another_networks_weights_are_told_in_one_sentence() -> None:
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 11)).state_dict()
    with pytest.raises(
        TrainerError, match=r"7 missing: 1.weight, .* \.\.\.; 1 unknown to the network: 2."
    ) as error:
        fitted(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)), {
            **{name: value for name, value in other.items() if name != "2.bias"},
        }, "w")  # fmt: skip
    assert len(str(error.value)) < 400
    with pytest.raises(
        TrainerError, match=r"1 of another shape: 3.weight \[11, 144\] instead of \[10, 144\]"
    ):
        fitted(plain(), {**plain().state_dict(), "3.weight": torch.zeros(11, 144)}, "w")


def test_tied_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    network = Tied().eval()
    spec = {"kind": "factory", "factory": "tied_factory:Tied", "arguments": {}}
    save_network(tmp_path / "n.safetensors", network, spec, {})
    (tmp_path / "tied_factory.py").write_text(f"from {__name__} import Tied")
    sys.path.insert(0, str(tmp_path))
    try:
        loaded = load_network(tmp_path / "n.safetensors", allow_code=True).module
    finally:
        sys.path.remove(str(tmp_path))
    assert torch.equal(loaded(X), network(X)) and loaded.head is loaded.net[3]  # type: ignore[index]


def test_tied_weights_of_which_the_file_has_one_name_or_two_values() -> None:
    state = Tied().state_dict()
    once = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert torch.equal(fitted(Tied(), once, "w")["head.weight"], state["net.3.weight"])
    with pytest.raises(TrainerError, match=r"net.3.weight and head.weight are one weight .* but differ"):
        fitted(Tied(), {**state, "head.weight": state["head.weight"] + 1}, "w")


def test_half_precision_and_wrapped_networks_become_plain_float32() -> None:
    expected = plain().half().float().eval()
    # torch.compile itself takes ten seconds to import; this is the class that it returns, as far as it matters here.
    compiled = type("OptimizedModule", (nn.Module,), {})()
    compiled._orig_mod = plain().half()
    for wrapped in (plain().half(), nn.DataParallel(plain().half()), compiled):
        network = prepare_network(wrapped, "own").eval()
        assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
        assert torch.equal(network(X), expected(X))


def test_masks_may_be_infinite_and_weights_may_not() -> None:
    network = plain()
    network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    check_finite(network, network.state_dict(), "w")
    for name in ("0.weight", "1.running_mean"):
        with pytest.raises(TrainerError, match=f"{name}' holds 1 NaN or infinite"):
            broken = {key: value.clone() for key, value in network.state_dict().items()}
            broken[name].view(-1)[0] = torch.inf
            check_finite(network, broken, "w")
    with pytest.raises(TrainerError, match="'mask' holds 1"):
        check_finite(network, {"mask": torch.tensor([torch.nan])}, "w")


def test_wrong_channels_and_whatever_forward_raises() -> None:
    with pytest.raises(TrainerError, match=r"own:f: fails on a batch of float32 \[1, 8, 8\].*3 channels"):
        check_answers(nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten()), X, 8, "own:f")


def test_a_network_that_cannot_be_trained_is_refused_before_anything_is_paid_for() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.net(x)

    class Unready(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise NotImplementedError("inference only")
            return x

    with pytest.raises(TrainerError, match="cannot be trained further"):
        check_trainable(Frozen(), X, "own")
    with pytest.raises(TrainerError, match="NotImplementedError: inference only"):
        check_trainable(Unready(), X, "own")
    network = plain()
    before = network.state_dict()["1.running_mean"].clone()
    check_trainable(network, X, "own")
    assert torch.equal(network.state_dict()["1.running_mean"], before) and network[0].weight.grad is None


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("def make(): raise ValueError('no GPU')", "fails when called.*ValueError: no GPU"),
        ("def make(width): return None", "fails when called.*TypeError"),
        ("raise SystemExit(1)", "cannot import it.*SystemExit: 1"),
        ("def make(:", "cannot import it.*SyntaxError"),
    ],
)
def test_a_factory_may_raise_anything(tmp_path: Path, monkeypatch, code: str, cause: str) -> None:
    (tmp_path / "raising.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "raising", raising=False)
    with pytest.raises(TrainerError, match=cause):
        load_factory("raising:make", allow_code=True)


def test_running_out_of_memory_and_interrupts_pass() -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)), user_code("own"):
            raise error


def test_a_float16_file_of_a_tied_network_through_the_command(tmp_path: Path) -> None:
    save_file({name: value.clone().half() for name, value in plain().state_dict().items()}, tmp_path / "w")
    from rrise.trainer.networks import read_safetensors

    target = plain()
    load_weights(target, read_safetensors(tmp_path / "w")[0], "w")
    assert target[0].weight.dtype == torch.float32
