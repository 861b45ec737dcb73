"""Several processes on one store, started by torchrun: who samples what, who may write, and training side by side.

Every image block belongs to one process, and its noise to the block, so the counts are those of a single process. A
process that dies takes nothing with it but the block in work; torchrun starts all of them again (`--max-restarts`), or
the user does, and they continue from the store.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, _set_pg_timeout
from torch.distributed.rendezvous import rendezvous

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.store import CountStore

JOINING = timedelta(minutes=1)
"""In which the processes must find each other; else all of them end, and torchrun (`--max-restarts`) or the user starts
them again."""

COUNTING = timedelta(days=7)
"""For which one process waits for another afterwards: a slow member is no failure, a dead one is noticed at once."""


@dataclass(frozen=True)
class Team:
    """The processes of this run. rank: of this one, size: how many."""

    rank: int
    size: int

    def owns(self, image_block: int) -> bool:
        """Whether this process samples the image block with this number."""
        return image_block % self.size == self.rank

    def device(self, wanted: str | torch.device | None) -> torch.device:
        """`wanted`, or the CPU; plain "cuda" becomes this process's own GPU."""
        device = torch.device(wanted or "cpu")
        if device.type == "cuda" and device.index is None and self.size > 1:
            number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if number >= there:
                raise TrainerError(
                    f"process {number} of this machine: got {there} GPUs, expected one for each process; start as many "
                    "processes as there are GPUs (torchrun --nproc-per-node)"
                )
            # What allocates without naming a device, such as pinned memory, would do so on the first one.
            torch.cuda.set_device(number)
            return torch.device("cuda", number)
        return device

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of the indices of a batch, int64 [B].

        Raises TrainerError where a process would get none, since the mean of nothing is NaN.
        """
        if len(batch) < self.size:
            raise TrainerError(
                f"got a batch of {len(batch)} frames for {self.size} processes, expected at least one frame for each; "
                "raise batch_size or start fewer processes"
            )
        return batch[self.rank :: self.size]

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """`network` for training: its gradients are averaged over all processes (DistributedDataParallel)."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def told(self, text: str) -> str:
        """What the first process says, in every process."""
        if self.size == 1:
            return text
        said = [text]
        dist.broadcast_object_list(said, src=0)
        return str(said[0])

    def agree_on(self, network: nn.Module) -> None:
        """Give every process the weights and statistics of the first one."""
        if self.size > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, src=0)

    @contextmanager
    def writing(self, store: CountStore) -> Iterator[None]:
        """Hold the store's writer lock together: exclusive towards other runs, shared within this one.

        Raises TrainerError in every process where another run is writing.
        """
        if self.size == 1:
            with store.writer():
                yield
            return
        problem: list[str | None] = [None]
        with _joined(store, self.rank, problem):
            yield


@contextmanager
def _joined(store: CountStore, rank: int, problem: list[str | None]) -> Iterator[None]:
    """The first process takes the lock, tells the others how that went, and lets them in."""
    lock = store.lock()
    try:
        if rank == 0:
            try:
                lock.acquire()
                store.sweep()
                lock.share()
            except TrainerError as error:
                problem[0] = str(error)
        dist.broadcast_object_list(problem, src=0)
        if problem[0] is not None:
            raise TrainerError(problem[0])
        if rank != 0:
            lock.acquire(shared=True)
        dist.all_reduce(torch.zeros(1))
        yield
        # When any process goes on, all counts are in the store; and the first one, which is the last to let go of the
        # lock, finds it free when it comes back for more samples.
        if rank != 0:
            lock.release()
        dist.all_reduce(torch.zeros(1))
    finally:
        lock.release()


def _meeting(store: Any, rank: int, size: int) -> str:
    """A name in `store` that only the processes of this start know; returns when all of them know it.

    torchrun keeps one store over its restarts, and gloo writes its addresses there under the same keys each time. A process
    that came before the others took the address of one that was dead, and waited for it. Restarts are not numbered alike
    on all machines. So the first process makes up a name and lets in whoever answers to it with a word of his own; who
    finds the name of an earlier start there does not find his word in the answer, and looks again.

    Raises RuntimeError where somebody does not come within `JOINING`.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + JOINING.total_seconds()
    if rank == 0:
        store.set("meeting", own)
    while time.monotonic() < until:
        if rank == 0:
            words = [f"{own}/{other}" for other in range(1, size)]
            if store.check(words):
                store.set(f"{own}/all", b" ".join(store.get(word) for word in words))
                return own
        elif store.check(["meeting"]):
            name: str = store.get("meeting").decode()
            store.set(f"{name}/{rank}", own)
            if store.check([f"{name}/all"]) and own.encode() in store.get(f"{name}/all").split():
                return name
        time.sleep(0.02)
    raise RuntimeError(f"process {rank} waited for the others")


def team() -> Team:
    """The team of this process: of the process group that is running, or that torchrun's variables describe.

    Raises TrainerError where the processes do not find each other.
    """
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Control runs over gloo also where tensors go over NCCL.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            store, rank, size = next(rendezvous("env://", timeout=JOINING))
            met = PrefixStore(_meeting(store, rank, size), store)
            dist.init_process_group(backend, store=met, rank=rank, world_size=size, timeout=JOINING)
        except RuntimeError as error:
            raise TrainerError(
                f"process group: {os.environ['WORLD_SIZE']} processes did not find each other within {JOINING} ({error}); "
                "start the run again, it continues from the store"
            ) from error
        _set_pg_timeout(COUNTING)
    if dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team(0, 1)
