"""Training of surrogates: one network for each method, guard noise and member."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rrise.calibration.tables.thinning import thin_counts
from rrise.trainer.base_classifier.specs import resnet_spec, single
from rrise.trainer.classifiers.blackbox import KINDS as BLACK_BOXES
from rrise.trainer.counts.counting import fresh_answers
from rrise.trainer.data.settings import plain
from rrise.trainer.learning import Session, Trained, train_network
from rrise.trainer.learning.engine import LossFunction
from rrise.trainer.learning.fitting import PRETRAINED, SCRATCH, TRAINED, schedule_for
from rrise.trainer.learning.kept import Kept
from rrise.trainer.learning.recipes import Teaching, fresh, stored
from rrise.trainer.learning.views import View
from rrise.trainer.learning.watch import Measure
from rrise.trainer.networks import Ensemble, Network, build_network, load_network
from rrise.trainer.settings.config import SurrogateConfig
from rrise.trainer.streams import stored_counts
from rrise.trainer.workspace import Workspace

DEFAULTS = {"settings": plain(asdict(SurrogateConfig()))}
"""What a training of an older version had, whose settings do not name all keys of [surrogate]."""
UNCHANGED = "unchanged"
WATCHED, PART = 512, 256


@dataclass
class Way:
    """One way of making a surrogate; passes and trained: base evaluations and training examples that it took."""

    method: str
    noise: float
    passes: int = 0
    trained: int = 0

    @property
    def stage(self) -> str:
        """Names its checkpoint, log and cost."""
        return f"surrogate-{self.method}" + (f"-{self.noise:g}" if self.noise else "")


class Work:
    """What the trainings of one surrogate share."""

    def __init__(
        self,
        workspace: Workspace,
        base: Network,
        session: Session,
        kept: Kept,
        settings: dict[str, Any],
        allow_code: bool,
    ) -> None:
        self.workspace, self.base, self.session = workspace, base, session
        self.kept, self.settings, self.allow_code = kept, settings, allow_code
        self.asked = workspace.config.surrogate
        self.inputs = workspace.training_inputs()

    @property
    def starts_at_base(self) -> bool:
        """Whether the base classifier's weights are where training starts."""
        black_box = self.base.spec["kind"] in BLACK_BOXES
        return not black_box and self.asked.start == "base" and not self.asked.widths

    def member_spec(self) -> dict[str, Any]:
        """Of one network: the base classifier's own (of an ensemble a member's), or the configured residual network."""
        if self.asked.widths:
            return resnet_spec(self.workspace, self.asked.widths, self.asked.blocks)
        if self.base.spec["kind"] in BLACK_BOXES:
            return resnet_spec(
                self.workspace, self.workspace.config.base.widths, self.workspace.config.base.blocks
            )
        return single(self.base.spec)

    def spec(self, way: Way) -> dict[str, Any]:
        """Of the network that is written."""
        one = self.member_spec()
        if self.asked.members == 1 or way.method == UNCHANGED:
            return one
        return {"kind": "ensemble", "members": [one] * self.asked.members}

    def network(self, way: Way) -> nn.Module:
        """Make the surrogate of one way, and enter into it what that cost."""
        if way.method == UNCHANGED:
            return self._initial(0).eval()
        made = [self._member(way, member) for member in range(self.asked.members)]
        for _, trained in made:
            way.trained += trained.examples
            way.passes += trained.examples * self.asked.samples_per_view if way.method == "fresh" else 0
        modules = [module for module, _ in made]
        return modules[0] if len(modules) == 1 else Ensemble(modules).eval()

    def _member(self, way: Way, member: int) -> tuple[nn.Module, Trained]:
        asked = self.asked
        stage = way.stage + (f"-{member}" if asked.members > 1 else "")
        label = f"surrogate ({way.method}" + (f", member {member + 1})" if asked.members > 1 else ")")
        epochs = asked.stored_epochs if way.method == "stored" else asked.epochs
        schedule = schedule_for(asked, epochs, self._start(), len(self.inputs), member)
        module = self._initial(member)

        def run(network: nn.Module) -> Trained:
            objective = self._stored(way) if way.method == "stored" else self._fresh(way)
            return train_network(
                network,
                schedule,
                self.inputs,
                objective,
                self.session,
                stage=stage,
                label=label,
                settings=self.settings,
                defaults=DEFAULTS,
                measure=watch_agreement(self.workspace, self.session.device),
                balance=torch.from_numpy(self.workspace.labels("train")) if asked.balance else None,
            )

        return module, self.kept.network(stage, self.member_spec(), module, run)

    def _start(self) -> str:
        if not self.starts_at_base:
            return SCRATCH
        return TRAINED if single(self.base.spec)["kind"] == "resnet" else PRETRAINED

    def _initial(self, member: int) -> nn.Module:
        """The weights to start from."""
        if self.starts_at_base:
            found = self.base.module
            network = found.members[0] if isinstance(found, Ensemble) else found
            return copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.asked.seed + 100 * member)
            return build_network(self.member_spec(), allow_code=self.allow_code)

    def _stored(self, way: Way) -> LossFunction:
        """The paper's way: stored class counts of the training frames themselves."""
        asked = self.asked
        counts = stored_counts(self.workspace, "train", self.base.digest)
        if asked.stored_samples:
            counts = thin_counts(counts, asked.stored_samples, np.random.default_rng(asked.seed))
        view = View(asked.shift, asked.flip, asked.mix) if asked.stored_views else View()
        teacher = None
        if asked.teacher:
            teacher = load_network(self.workspace.path / asked.teacher, allow_code=self.allow_code).module
            teacher.to(self.session.device)
        numbers = torch.from_numpy(counts.astype(np.float32)).to(self.session.device)
        return stored(numbers, Teaching(view, way.noise, asked.loss), teacher, asked.teacher_share)

    def _fresh(self, way: Way) -> LossFunction:
        """New noise on a new view of every frame at every step."""
        asked, config = self.asked, self.workspace.config
        classes = len(self.workspace.dataset.class_names)
        labels = fresh_answers(self.workspace, self.base, self.session.device)
        how = Teaching(View(asked.shift, asked.flip, asked.mix), way.noise, asked.loss)
        return fresh(labels, classes, config.smoothing.sigma, asked.samples_per_view, how)


def watch_agreement(workspace: Workspace, device: torch.device) -> Measure:
    """Label agreement with Monte Carlo on some tuning frames, while training."""
    references = workspace.references("tuning")
    x = workspace.inputs("tuning")[:WATCHED].to(device)
    wanted = torch.from_numpy(references.counts[:WATCHED].argmax(1).astype(np.int64)).to(device)

    def measure(network: nn.Module) -> dict[str, float]:
        right = 0
        with torch.no_grad():
            for part, labels in zip(x.split(PART), wanted.split(PART), strict=True):
                right += int((network(part).argmax(1) == labels).sum())
        return {"agreement": right / len(x)}

    return measure
