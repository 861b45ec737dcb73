"""Networks of model libraries by name, with stand-ins for the libraries: none of them is a requirement."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.cli import main
from rrise.trainer.commands import presets
from rrise.trainer.commands.presets import estimates, fitting_config, memory_note
from rrise.trainer.data.settings import DataConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import build_network, read_header
from rrise.trainer.networks.pretrained import fixed_size, library_network, normalisation, pretrained_weights
from rrise.trainer.networks.saved_folders import read_folder
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


class Settings(dict[str, Any]):
    """A configuration whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


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
    timm.get_pretrained_cfg = lambda name: SimpleNamespace(  # type: ignore[attr-defined]
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), fixed_input_size=name == "vit", input_size=(3, 224, 192)
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    transformers = ModuleType("transformers")
    transformers.AutoConfig = SimpleNamespace(for_model=lambda kind, **rest: Settings(rest, kind=kind))  # type: ignore[attr-defined]
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
    tuned = module.network.body.weight.detach()  # type: ignore[operator, union-attr]
    moved = float((tuned - start).norm() / start.norm())
    assert 0 < moved < 0.2, "the body goes on from its weights at a small rate"
    assert module.network.head.weight.shape == (10, 8) and body.head.weight.shape == (1000, 8)  # type: ignore[union-attr]
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


def test_a_library_that_cannot_be_imported_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision of another build than torch raises RuntimeError as soon as it, or timm, is imported."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        TrainerError, match=r"timm is installed, but cannot be imported \(RuntimeError: operator .*same build"
    ):
        built("timm/x")


def test_weights_without_a_head_start_a_new_one_and_strangers_are_refused(libraries: dict[str, Any]) -> None:
    network = library_network("timm/tiny", 4, 3, {}, [0.5] * 3, [0.5] * 3)
    body = {name: value for name, value in Tiny(9, 3).state_dict().items() if name.startswith("body")}
    found, fresh = pretrained_weights(network, body, "x")
    assert fresh and found.keys() == network.state_dict().keys()
    whole, fresh = pretrained_weights(network, Tiny(4, 3).state_dict(), "x")
    assert not fresh and torch.equal(whole["network.head.bias"], whole["network.head.bias"])


def test_the_size_that_a_network_demands(libraries: dict[str, Any]) -> None:
    assert fixed_size("timm/vit", {}) == (224, 192) and fixed_size("timm/vit", {"img_size": 96}) == (96, 96)
    assert fixed_size("timm/resnet", {}) is None and fixed_size("torchvision/resnet18", {}) is None
    assert fixed_size("transformers/vit", {"image_size": 32}) == (32, 32)
    with pytest.raises(
        TrainerError, match=r"network 'transformers/here/vit': no such folder; expected a model type"
    ):
        fixed_size("transformers/here/vit", {})


def saved_classifier(folder: Path, **processor: Any) -> Path:
    """A folder such as save_pretrained writes, for the stand-in."""
    folder.mkdir()
    model = {"model_type": "vit", "num_channels": 1, "id2label": {"0": "a"}, "image_size": 8, "depth": [1, 2]}
    (folder / "config.json").write_text(json.dumps(model))
    rules = {
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.2],
        "image_std": [0.25] * 3,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**rules, **processor}))
    torch.manual_seed(0)
    save_file(Tiny(1000, 1).state_dict(), folder / "model.safetensors")
    return folder


def test_a_saved_folder_brings_configuration_normalisation_and_weights(
    workspace: Path, tmp_path: Path, libraries: dict[str, Any]
) -> None:
    copy = copied(workspace, tmp_path)
    saved_classifier(copy.path / "mine")
    copy = edit(copy, 'network = ""', 'network = "transformers/mine"')
    copy = edit(copy, "epochs = 20", "epochs = 1")
    train_base(copy, again=True)
    spec = read_header(copy.base_path)[0]
    assert (spec["name"], spec["arguments"]) == ("transformers/vit", {"image_size": 8, "depth": [1, 2]})
    assert (spec["mean"], spec["std"]) == ([pytest.approx(0.4)], [0.25])
    start = Tiny(1000, 1)
    start.load_state_dict(load_file(copy.path / "mine" / "model.safetensors"))
    moved = (copy.base().module.network.body.weight - start.body.weight).norm() / start.body.weight.norm()  # type: ignore[operator, union-attr]
    assert 0 < float(moved.detach()) < 0.2, "fine-tuned from the folder's weights"
    with pytest.raises(TrainerError, match="for other classes than these frames"):
        train_base(edit(copy, 'train = "auto"', 'train = "none"'), again=True)
    edit(copy, 'train = "none"', 'train = "auto"')
    (copy.path / "mine" / "config.json").write_text('{"model_type": "vit", "image_size": 8}')
    with pytest.raises(TrainerError, match=r"own_classifier_digest: got .* expected"):
        train_base(Workspace.open(copy.path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rescale_factor": 1 / 127.5}, "expected RGB in"),
        ({"do_rescale": False}, "expected RGB in"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order True; expected RGB"),
        ({"image_mean": None}, "got no image_mean and image_std"),
    ],
)
def test_colours_that_would_be_guessed_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainerError, match=message):
        read_folder(saved_classifier(tmp_path / "mine", **change))


def test_what_a_saved_folder_lacks_is_named(tmp_path: Path) -> None:
    folder = saved_classifier(tmp_path / "mine", do_normalize=False)
    assert read_folder(folder).mean == [0.0] * 3 and read_folder(folder).std == [1.0] * 3
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TrainerError, match=r"got no model.safetensors.*pickles"):
        read_folder(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        TrainerError, match=r"expected what AutoImageProcessor.*save_pretrained\(FOLDER\) writes"
    ):
        read_folder(folder)
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoModel": "code.Mine"}}')
    with pytest.raises(TrainerError, match="code of its own is never run"):
        read_folder(folder)


def test_weights_in_several_files_are_one_classifier(tmp_path: Path) -> None:
    folder = saved_classifier(tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    save_file({"more": torch.zeros(1)}, folder / "model-2-of-2.safetensors")
    names = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = read_folder(folder)
    assert [path.name for path in found.weights] == sorted(names.values())
    before = found.digest
    save_file({"more": torch.ones(1)}, folder / "model-2-of-2.safetensors")
    assert read_folder(folder).digest != before
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(TrainerError, match=r"got no model.safetensors"):
        read_folder(folder)


@pytest.mark.parametrize(("name", "size"), [("vit", (224, 192)), ("tiny", (168, 224))])
def test_init_asks_the_network_for_its_size_and_measures_it(
    tmp_path: Path, libraries: dict[str, Any], name: str, size: tuple[int, int]
) -> None:
    images = np.zeros((40, 300, 400, 1), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    names = np.array(["a", "b"])
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(40) % 2, class_names=names)
    config = fitting_config(tmp_path / "w", DataConfig(str(tmp_path / "x.npz")), network=f"timm/{name}")
    assert config.preprocess.size == size
    made = Workspace.create(tmp_path / "w", config)
    split = {"train": 20, "tuning": 4, "calibration": 8, "verification": 4, "test": 4}
    network = presets.untrained_network(made)
    assert all(item.seconds and item.seconds > 0 for item in estimates(made, split, network))
    # Of the stand-in: 8 feature maps, the standardised frame, and as good as nothing behind them.
    frame = 4 * config.base.batch_size * config.base.copies * 9 * size[0] * size[1] / 2**20
    said = re.search(r"about ([\d,]+) MiB while training", memory_note(made, network))
    assert said is not None and float(said[1].replace(",", "")) == pytest.approx(400 + frame, abs=1)


def test_init_says_what_a_network_starts_from_and_takes_its_weights(
    tmp_path: Path, libraries: dict[str, Any]
) -> None:
    images = np.zeros((40, 8, 8, 1), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    names = np.array(["a", "b"])
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(40) % 2, class_names=names)
    save_file({"head.bias": torch.zeros(2)}, tmp_path / "tiny.safetensors")

    def init(place: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["init", str(tmp_path / place), *arguments])

    asked = ["--data", str(tmp_path / "x.npz"), "--network", "timm/tiny"]
    weights = ["--weights", str(tmp_path / "tiny.safetensors")]
    fresh = init("fresh", *asked)
    assert fresh.exit_code == 0 and "starts from fresh weights; --weights FILE" in fresh.output
    tuned = init("tuned", *asked, *weights)
    assert tuned.exit_code == 0 and "timm/tiny, goes on from its weights" in tuned.output
    base = Workspace.open(tmp_path / "tuned").config.base
    assert (base.weights, base.epochs) == (str((tmp_path / "tiny.safetensors").resolve()), 6)
    # A template keeps all but what the command line says; a preset would change what it says.
    template = ["--config", str(tmp_path / "fresh" / "rrise.toml"), "--data", str(tmp_path / "x.npz")]
    own = init("own", *template, "--network", "my_package:make", *weights)
    assert own.exit_code == 0, own.output
    base = Workspace.open(tmp_path / "own").config.base
    assert (base.factory, base.network, Path(base.weights).name) == (
        "my_package:make",
        "",
        "tiny.safetensors",
    )
    absent = init("absent", *asked, "--weights", str(tmp_path / "absent.safetensors"))
    assert absent.exit_code == 2 and "absent.safetensors, which is no file" in " ".join(absent.output.split())
    (tmp_path / "w.pt").write_bytes(b"no weights")
    for arguments in (asked, template):
        pickled = init("pickled", *arguments, "--network", "timm/tiny", "--weights", str(tmp_path / "w.pt"))
        assert pickled.exit_code == 2 and "not a readable safetensors file" in pickled.output
    assert not (tmp_path / "absent").exists() and not (tmp_path / "pickled").exists()
    refused = init("refused", *template, "--preset", "quick")
    assert refused.exit_code == 2 and "--preset quick with --config" in refused.output


def test_estimates_count_members_recipes_and_guard_noises(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted by three networks takes three times as long, and is no more passes of the base classifier."""
    monkeypatch.setattr(presets, "_passes_per_second", lambda *arguments: 100.0)
    sizes = {"train": 100, "tuning": 10, "calibration": 20, "verification": 10, "test": 10}

    def foretold(made: Workspace) -> dict[str, Any]:
        return {item.stage: item for item in estimates(made, sizes, presets.untrained_network(made))}

    plain = copied(workspace, tmp_path)
    one = foretold(plain)
    three = foretold(edit(plain, "members = 1", "members = 3"))
    for stage in ("base", "targets", "certify and audit"):
        assert three[stage].passes == pytest.approx(one[stage].passes)
        assert three[stage].seconds == pytest.approx(3 * one[stage].seconds)
    taught = plain.config.surrogate
    steps, fresh = 3.0 * taught.epochs * 100, float(taught.samples_per_view * taught.epochs * 100)
    stored = 3.0 * taught.stored_epochs * 100 if taught.method == "auto" else 0.0
    assert one["surrogate"].seconds == pytest.approx((stored + steps + fresh) / 100)
    assert three["surrogate"].seconds == pytest.approx((stored + steps + 3 * fresh) / 100)
    edited = edit(edit(plain, "members = 3", "members = 1"), 'recipe = "gaussian"', 'recipe = "auto"')
    both = foretold(edit(edited, "noise = []", "noise = [0.1, 0.2]"))
    # One noisy copy for the first recipe and two for the second, and both are judged by at least 200 draws.
    training = 3.0 * plain.config.base.epochs * 100
    assert both["base"].passes == pytest.approx(one["base"].passes + 2 * training + 2 * 200 * 10)
    assert both["surrogate"].passes == pytest.approx(2 * one["surrogate"].passes)
