"""The one training loop, for base classifiers and surrogates: any device, stopped and continued at any step.

Everything random in a step (order, views, noise, dropout) follows from the seed and the number of the step, so a training
that was killed and continued ends, on the same machine, with the weights of one that was not, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rrise.trainer.brought.user_code import out_of_memory
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.checkpoint import Position, TrainingState, restore_checkpoint, save_checkpoint
from rrise.trainer.learning.clock import Interrupted
from rrise.trainer.learning.feed import TrainingFrames, step_seed, training_batches
from rrise.trainer.learning.hardware import (
    choose_precision,
    describe_hardware,
    layout_for,
    numbers_per_batch,
    threads_for,
)
from rrise.trainer.learning.journal import Journal
from rrise.trainer.learning.order import balanced_order, order
from rrise.trainer.learning.schedule import SCHEDULE_DEFAULTS, Average, Optimiser, Schedule
from rrise.trainer.learning.session import Session
from rrise.trainer.learning.watch import Measure, Watch

AGREE_EVERY = 8
"""Steps between the questions of several processes whether one of them has to stop."""

Forward = Callable[[Tensor], Tensor]
"""The network in training: float32 [B, C, h, w] -> logits float32 [B, K]."""


@dataclass(frozen=True)
class Batch:
    """What the objective sees. index: of the frames, int64 [B]; frames: float32 [B, C, h, w] in [0, 1].

    generator: of everything that the objective draws, on the device. progress: share of the steps that are done.
    """

    index: Tensor
    frames: Tensor
    generator: torch.Generator
    progress: float


LossFunction = Callable[[Forward, Batch], Tensor]
"""The mean loss of a batch; a mean over frames, so that a batch may be cut into pieces."""


@dataclass(frozen=True)
class Trained:
    """What a training took, and how it ended.

    examples: frames seen in training steps, with repeats, over all processes; seconds: of training, interruptions left
    out; loss: mean over the last epoch; parts: pieces that a batch had to be cut into; machine: what the weights depend
    on beside the settings.
    """

    examples: int
    seconds: float
    loss: float
    parts: int
    machine: Mapping[str, Any]


def train_network(
    network: nn.Module,
    schedule: Schedule,
    frames: TrainingFrames,
    objective: LossFunction,
    session: Session,
    *,
    stage: str = "training",
    label: str = "training",
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    measure: Measure | None = None,
    balance: Tensor | None = None,
) -> Trained:
    """Train `network` in place, from its checkpoint where there is one; it ends on the session's device in eval mode.

    stage: names checkpoint and log. settings: whatever else decides the outcome; a checkpoint of others is refused.
    defaults: of those of `settings` that a checkpoint of an older version may not name, table by table.
    measure: values to log now and then beside the loss, such as the accuracy under noise on the tuning split.
    balance: classes of the frames, int64 [n], which are then drawn equally often; None draws every frame once an epoch.

    Raises Interrupted, with everything saved, where time is up or somebody asked to stop; TrainerError where the loss is
    not finite, memory does not suffice for one frame, or the checkpoint belongs to other settings.
    """
    engine = Engine(
        network,
        schedule,
        frames,
        objective,
        session,
        {**(settings or {}), "schedule": asdict(schedule), "balanced": balance is not None},
        {**(defaults or {}), "schedule": SCHEDULE_DEFAULTS, "balanced": False},
        balance,
    )
    size = numbers_per_batch(engine.size, tuple(frames.shape))
    devices = [session.device] if session.device.type == "cuda" else []
    with (
        threads_for(size),
        torch.random.fork_rng(devices),
        session.clock.listening(),
        session.journal(stage, label) as journal,
    ):
        return engine.run(journal, measure)


class Engine:
    """One training: its state, and what happens in a step."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        frames: TrainingFrames,
        objective: LossFunction,
        session: Session,
        settings: Mapping[str, Any],
        defaults: Mapping[str, Any],
        balance: Tensor | None,
    ) -> None:
        self.balance = None if balance is None else balance.cpu()
        self.network, self.schedule, self.frames = network, schedule, frames
        self.objective, self.session = objective, session
        self.settings, self.defaults = settings, defaults
        self.device, self.crew = session.device, session.crew
        self.size = schedule.size(len(frames), self.crew.size)
        self.per_epoch = len(frames) // self.size
        self.steps = schedule.epochs * self.per_epoch
        self.precision = choose_precision(
            session.precision, self.device, numbers_per_batch(self.size, tuple(frames.shape))
        )
        self.machine = describe_hardware(self.device, self.precision, self.crew.size)
        network.to(self.device).float().train().requires_grad_(True)
        self.layout = layout_for(network, self.device)
        network.to(memory_format=self.layout)  # type: ignore[call-overload]
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        average = Average(network, schedule.ema) if schedule.ema else None
        self.state = TrainingState(network, Optimiser(network, schedule), average, scaler)
        self.generator = torch.Generator(self.device)
        self.position = Position()

    def run(self, journal: Journal, measure: Measure | None) -> Trained:
        """Take all steps that are left."""
        path = self.session.checkpoint(journal.stage)
        if path is not None:
            self.position = restore_checkpoint(
                path,
                self.state,
                self.settings,
                self.machine,
                defaults=self.defaults,
                again=self.session.again,
            )
        self._same_start()
        self._forward = self._prepared()
        watch = Watch(self, journal, measure)
        journal.open(self.steps * self.size, self.position.examples)
        for index, frames in training_batches(self.frames, self._indices(), self.device):
            watch.took(self._step(index, frames))
            journal.advance(self.size)
            if self.position.steps < self.steps:
                self._perhaps_stop(watch)
        watch.report(last=True)
        return self._finished()

    def _finished(self) -> Trained:
        if self.state.average is not None:
            self.network.load_state_dict(self.state.average.network.state_dict())
        self.crew.agree_on(self.network)
        self.network.eval()
        done = self.position
        return Trained(done.examples, done.seconds, done.loss, done.parts, self.machine)

    def _indices(self) -> Iterator[Tensor]:
        """This process's frames of every step that is left."""
        rank, size = self.crew.rank, self.size
        shuffled, of = torch.empty(0, dtype=torch.int64), -1
        for step in range(self.position.steps, self.steps):
            epoch, number = divmod(step, self.per_epoch)
            if of != epoch:
                shuffled, of = self._order(epoch), epoch
            yield shuffled[number * size : (number + 1) * size][rank :: self.crew.size]

    def _order(self, epoch: int) -> Tensor:
        if self.balance is None:
            return order(len(self.frames), self.schedule.seed, epoch)
        return balanced_order(self.balance, self.schedule.seed, epoch)

    def _prepared(self) -> Forward:
        """The network as the objective calls it: in the chosen precision, answering in float32."""
        network = self.crew.data_parallel(self.network)
        self._shared = network if isinstance(network, nn.parallel.DistributedDataParallel) else None
        running = torch.compile(network) if self.session.compile else network
        low = getattr(torch, self.precision)

        def forward(x: Tensor) -> Tensor:
            x = x.contiguous(memory_format=self.layout)
            with torch.autocast(self.device.type, low, enabled=low is not torch.float32):
                logits: Tensor = running(x)
            return logits.float()

        return forward

    def _step(self, index: Tensor, frames: Tensor) -> Tensor:
        """One step of the optimiser; a batch that memory cannot hold is cut into smaller pieces, and tried again."""
        done = self.position
        seed = step_seed(self.schedule.seed, done.steps, self.crew.rank, self.crew.size)
        while True:
            self.generator.manual_seed(seed)
            _seed_network(seed, self.device)
            try:
                loss = self._gradients(index, frames)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._recover(error, len(frames))
        self.state.optimiser.step(done.steps / self.steps, self.state.scaler)
        self.position = replace(self.position, steps=done.steps + 1, examples=done.examples + self.size)
        if self.state.average is not None:
            self.state.average.update(self.network, done.steps)
        return loss

    def _gradients(self, index: Tensor, frames: Tensor) -> Tensor:
        self.state.optimiser.inner.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        pieces = list(zip(index.chunk(self.position.parts), frames.chunk(self.position.parts), strict=True))
        for number, (rows, part) in enumerate(pieces, start=1):
            alone = number < len(pieces)
            with self._shared.no_sync() if alone and self._shared else nullcontext():
                batch = Batch(rows, part, self.generator, self.position.steps / self.steps)
                loss = self.objective(self._forward, batch) * (len(part) / len(frames))
                self.state.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _recover(self, error: RuntimeError, frames: int) -> None:
        """Halve the pieces of a batch after running out of memory; any other error goes on.

        Give way, too, to a network that calls `view` on its input.
        """
        if "view size is not compatible" in str(error) and self.layout is not torch.contiguous_format:
            self.layout = torch.contiguous_format
            self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        elif out_of_memory(error):
            self._cut(error, frames)
        else:
            raise error
        self.state.optimiser.inner.zero_grad(set_to_none=True)

    def _cut(self, error: RuntimeError, frames: int) -> None:
        parts = 2 * self.position.parts
        if self.crew.size > 1 or parts > frames:
            held = frames // self.position.parts
            raise TrainerError(
                f"out of memory on {self.device} with {held} frames at once"
                + (
                    f"; batches of {self.crew.size * max(held // 2, 1)} may fit: lower batch_size"
                    if held > 1
                    else "; expected room for at least one: use smaller images, a smaller network, or another device"
                )
            ) from error
        self.position = replace(self.position, parts=parts)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _same_start(self) -> None:
        """Several processes must continue from the same step, or they would wait for each other for ever."""
        if self.crew.size == 1:
            return
        steps = torch.tensor([self.position.steps, -self.position.steps])
        dist.all_reduce(steps, dist.ReduceOp.MAX)
        if int(steps[0]) != -int(steps[1]):
            raise TrainerError(
                "the processes found different checkpoints; expected one workspace folder that all of them share"
            )

    def _perhaps_stop(self, watch: Watch) -> None:
        """Save where it is time to, and leave where there is a reason."""
        reason = self._reason(watch)
        due = watch.since_saving() > self.session.save_every
        if not reason and not due:
            return
        watch.report()
        path = self.session.checkpoint(watch.journal.stage)
        if path is not None and self.session.first:
            save_checkpoint(path, self.state, self.position, self.settings, self.machine)
        watch.saved()
        if reason:
            share = 100 * self.position.steps // self.steps
            kept = "everything is saved; the same command continues" if path else "nothing was kept"
            raise Interrupted(f"{watch.journal.label}: {reason} after {share} % of the steps; {kept}")

    def _reason(self, watch: Watch) -> str:
        if self.crew.size == 1:
            return self.session.clock.reason(watch.reserve())
        if self.position.steps % AGREE_EVERY:
            return ""
        reason = self.session.clock.reason(watch.reserve())
        flag = torch.tensor([float(bool(reason))])
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return reason or ("another process has to stop" if flag.item() else "")


def _seed_network(seed: int, device: torch.device) -> None:
    """Seed what the network itself draws: dropout and the like.

    `torch.manual_seed` does it for every kind of device, and formats three stack traces for those that are not in use: a
    tenth of a step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
