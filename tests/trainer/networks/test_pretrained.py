"""Networks of model libraries by name, with stand-ins for the libraries: none of them is a requirement."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import build_network
from rrise.trainer.networks.pretrained import library_network, normalisation
from rrise.trainer.settings.config import parse_config
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


class Tiny(nn.Module):
    """A body and a head, as libraries name them."""

    def __init__(self, classes: int, channels: int, wrapped: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8, classes)
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Any:
        logits = self.head(torch.relu(self.body(x)).mean((2, 3)))
        return SimpleNamespace(logits=logits) if self.wrapped else logits


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Calls that the libraries received."""
    seen: dict[str, Any] = {}

    def create_model(name: str, pretrained: bool, num_classes: int, in_chans: int, **rest: Any) -> nn.Module:
        seen.update(name=name, pretrained=pretrained, rest=rest)
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        return Tiny(num_classes, in_chans)

    timm = ModuleType("timm")
    timm.create_model = create_model  # type: ignore[attr-defined]
    timm.get_pretrained_cfg = lambda name: SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    transformers = ModuleType("transformers")
    transformers.AutoConfig = SimpleNamespace(for_model=lambda kind, **rest: {"kind": kind, **rest})  # type: ignore[attr-defined]
    transformers.AutoModelForImageClassification = SimpleNamespace(  # type: ignore[attr-defined]
        from_config=lambda settings: Tiny(settings["num_labels"], settings["num_channels"], wrapped=True)
    )
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    return seen


def test_normalisation_is_inside_and_comes_from_the_model(libraries: dict[str, Any]) -> None:
    mean, std = normalisation("timm/tiny", 3, {})
    assert (mean, std) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert normalisation("timm/tiny", 1, {})[0] == pytest.approx([0.4])
    assert normalisation("transformers/vit", 3, {})[0] == [0.485, 0.456, 0.406]
    network = library_network("timm/tiny", 4, 3, {"drop_rate": 0.1}, mean, std).eval()
    assert libraries == {"name": "tiny", "pretrained": False, "rest": {"drop_rate": 0.1}}, (
        "nothing is fetched"
    )
    x = torch.rand(2, 3, 8, 8)
    scaled = (x - torch.tensor(mean).view(1, 3, 1, 1)) / 0.2
    torch.testing.assert_close(network(x), network.network(scaled))


def test_outputs_with_logits_are_unpacked(libraries: dict[str, Any]) -> None:
    network = library_network("transformers/vit", 5, 1, {}, [0.5], [0.5])
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 5)


def test_what_is_missing_or_unknown_is_named(libraries: dict[str, Any]) -> None:
    with pytest.raises(
        TrainerError, match=r"torchvision is not installed: `python -m pip install 'torchvision>=0.21'`"
    ):
        library_network("torchvision/resnet18", 4, 3, {}, [0.5] * 3, [0.5] * 3)
    with pytest.raises(
        TrainerError, match=r"network 'timm/unknown': cannot be built with {} \(RuntimeError: Unknown model"
    ):
        library_network("timm/unknown", 4, 3, {}, [0.5] * 3, [0.5] * 3)
    with pytest.raises(TrainerError, match="network 'tim/x': expected timm/NAME"):
        built("tim/x")
    with pytest.raises(TrainerError, match=r"network: got 'resnet18', expected timm/NAME"):
        parse_config({"base": {"network": "resnet18"}})
    with pytest.raises(TrainerError, match="got no weights, expected the file to start from"):
        parse_config({"base": {"network": "timm/x", "train": "fine-tune"}})


def built(name: str) -> nn.Module:
    return build_network(
        {
            "kind": "library",
            "name": name,
            "num_classes": 2,
            "in_channels": 3,
            "arguments": {},
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        }
    )


@pytest.fixture
def named(workspace: Path, tmp_path: Path, libraries: dict[str, Any]) -> Workspace:
    """A workspace whose base classifier is a library's network, with weights for other classes."""
    copy = copied(workspace, tmp_path)
    torch.manual_seed(0)
    save_file(Tiny(1000, 1).state_dict(), copy.path / "tiny.safetensors")
    copy = edit(copy, 'network = ""', 'network = "timm/tiny"')
    copy = edit(copy, 'weights = ""', 'weights = "tiny.safetensors"')
    return edit(copy, "epochs = 20", "epochs = 2")


def test_fine_tuning_starts_from_the_weights_with_a_new_head(named: Workspace) -> None:
    body = Tiny(1000, 1)
    torch.manual_seed(0)
    start = Tiny(1000, 1).state_dict()["body.weight"]
    train_base(named, again=True)
    module = named.base().module
    tuned = module.network.body.weight.detach()
    moved = float((tuned - start).norm() / start.norm())
    assert 0 < moved < 0.2, "the body goes on from its weights at a small rate"
    assert module.network.head.weight.shape == (10, 8) and body.head.weight.shape == (1000, 8)
    named_again = train_base(named)
    assert named_again.kept and named_again.recipe == "gaussian"


def test_weights_as_they_are_need_a_head_of_these_classes(named: Workspace) -> None:
    plain = edit(named, 'train = "auto"', 'train = "none"')
    with pytest.raises(
        TrainerError, match=r'for other classes than these frames have; use .* train = "fine-tune"'
    ):
        train_base(plain, again=True)
    save_file(Tiny(10, 1).state_dict(), named.path / "tiny.safetensors")
    assert train_base(plain, again=True).recipe == ""


def test_weights_of_another_network_are_refused(named: Workspace) -> None:
    save_file({"trunk.weight": torch.zeros(3)}, named.path / "tiny.safetensors")
    with pytest.raises(TrainerError, match="the weights do not fit the network"):
        train_base(named, again=True)
