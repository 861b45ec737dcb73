"""Networks that answer together: the members of one surrogate, or the teacher of another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import combined_digest
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import Network, load_network


class Ensemble(nn.Module):
    """The mean of its members' log-probabilities: float32 [B, C, H, W] -> [B, K]."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).log_softmax(1) for member in self.members]).mean(0)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """One surrogate of a third-party run.

    digest: of its members' files. passes: networks over frames, spent on training it and on its teacher.
    """

    network: Ensemble
    digest: str
    passes: int

    @property
    def members(self) -> int:
        return len(self.network.members)


def member_path(folder: Path, name: str, member: int) -> Path:
    """Where a third-party run keeps a member of the surrogate called `name`."""
    return folder / "surrogates" / f"{name}-{member}.safetensors"


def load_surrogate(folder: Path, name: str, counts: str, members: int = 0) -> Surrogate:
    """The surrogate `name` of the run in `folder`, in eval mode.

    counts: digest of the class counts that it must have been trained with. members: how many; 0 = what its files say.

    Raises TrainerError where a member is missing or was trained with other counts.
    """
    found = [_member(member_path(folder, name, 0), counts)]
    expected = members or int(found[0].metadata["settings"]["members"])
    found += [_member(member_path(folder, name, number), counts) for number in range(1, expected)]
    return Surrogate(
        Ensemble([network.module for network in found]).eval(),
        combined_digest([network.digest for network in found]),
        sum(int(network.metadata["passes"]) for network in found),
    )


def _member(path: Path, counts: str) -> Network:
    found = load_network(path)
    if found.metadata.get("counts") != counts or not {"settings", "passes"} <= found.metadata.keys():
        raise TrainerError(
            f"{path}: expected a surrogate that a third-party run trained with the class counts of this one; train it again"
        )
    return found
