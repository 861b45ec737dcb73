"""What the networks of a workspace are built from, and the session in which they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Session, open_training_session
from rrise.trainer.networks import load_weights, read_safetensors
from rrise.trainer.networks.pretrained import Named, for_channels, normalisation, pretrained_weights
from rrise.trainer.networks.saved_folders import SavedFolder, folder_of, read_folder
from rrise.trainer.workspace import Workspace


def session_for(
    workspace: Workspace, *, device: str = "", minutes: float | None = None, again: bool = False
) -> Session:
    """The session that [training] describes. device: instead of its device; minutes: how long it may work."""
    asked = workspace.config.training
    return open_training_session(
        workspace.path,
        device=device or asked.device,
        precision=asked.precision,
        compile=asked.compile,
        checkpoint_minutes=asked.checkpoint_minutes,
        viewer=asked.viewer,
        minutes=minutes,
        again=again,
    )


def base_spec(workspace: Workspace) -> dict[str, Any]:
    """Spec of the network that [base] describes: the user's factory, a library's, or the residual network."""
    asked = workspace.config.base
    if asked.factory:
        return {"kind": "factory", "factory": asked.factory, "arguments": dict(asked.arguments)}
    if asked.network:
        return library_spec(workspace)
    return resnet_spec(workspace, asked.widths, asked.blocks)


def library_spec(workspace: Workspace) -> dict[str, Any]:
    """Spec of the network that [base] network names; of a saved folder with its own configuration and normalisation."""
    asked, channels = workspace.config.base, workspace.preprocess.output_shape[0]
    name, arguments, saved = asked.network, dict(asked.arguments), saved_folder(workspace)
    if saved is None:
        mean, std = normalisation(name, channels, arguments)
    else:
        name, arguments = saved.name, {**saved.arguments, **arguments}
        mean, std = for_channels(saved.mean, channels), for_channels(saved.std, channels)
    return {
        "kind": "library",
        "name": name,
        "num_classes": len(workspace.class_names),
        "in_channels": channels,
        "arguments": arguments,
        "mean": mean,
        "std": std,
    }


def saved_folder(workspace: Workspace) -> SavedFolder | None:
    """What the folder holds that [base] network = "transformers/FOLDER" names; None where it names none."""
    folder = folder_of(workspace.config.base.network, workspace.path)
    return None if folder is None else read_folder(folder)


def start_files(workspace: Workspace) -> tuple[Path, ...]:
    """The safetensors files that the base classifier starts from, or that it is; none where it starts anew."""
    if workspace.config.base.weights:
        return (workspace.path / workspace.config.base.weights,)
    saved = saved_folder(workspace)
    return () if saved is None else saved.weights


def start_weights(workspace: Workspace) -> tuple[dict[str, Tensor], str]:
    """Their tensors, and what messages call them.

    Raises TrainerError where there are none.
    """
    files = start_files(workspace)
    if not files:
        raise TrainerError(
            f"[base] train = {workspace.config.base.train!r}: got no weights, expected the file to start from, or a network "
            '"transformers/FOLDER" with them'
        )
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= read_safetensors(path)[0]
    return tensors, str(files[0])


def load_start(network: nn.Module, tensors: Mapping[str, Tensor], origin: str, *, new_head: bool) -> None:
    """Load weights to start from or to take as they are; of a library's network under the library's own names.

    new_head: whether a last layer for other classes may start anew.
    """
    if isinstance(network, Named):
        tensors, fresh = pretrained_weights(network, tensors, origin)
        if fresh and not new_head:
            raise TrainerError(
                f'{origin}: its last layer is for other classes than these frames have; use [base] train = "fine-tune", '
                "which starts that layer anew"
            )
    load_weights(network, tensors, origin)


def resnet_spec(workspace: Workspace, widths: tuple[int, ...], blocks: tuple[int, ...]) -> dict[str, Any]:
    """Spec of a residual network, standardised by the training frames."""
    inputs = workspace.training_inputs()
    _check_depth(workspace, widths, inputs.shape)
    mean, std = inputs.statistics()
    return {
        "kind": "resnet",
        "in_channels": inputs.shape[0],
        "num_classes": len(workspace.dataset.class_names),
        "widths": list(widths),
        "blocks": list(blocks),
        "stem_stride": workspace.config.base.stem_stride,
        "mean": [round(float(value), 6) for value in mean],
        "std": [round(max(float(value), 0.01), 6) for value in std],
    }


def _check_depth(workspace: Workspace, widths: tuple[int, ...], shape: tuple[int, ...]) -> None:
    smallest = workspace.config.base.stem_stride * 2 ** (len(widths) - 1)
    if min(shape[1:]) < smallest:
        raise TrainerError(
            f"[base] widths {list(widths)}: every stage after the first halves the image, so "
            f"{shape[1]}x{shape[2]} pixels are too few (expected at least {smallest}); use fewer stages"
        )


def single(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The first member of an ensemble's spec, or the spec itself: what one small network may start from."""
    return dict(spec["members"][0]) if spec["kind"] == "ensemble" else dict(spec)
