"""Where a network trains and in which precision: chosen from what the machine has, or refused with what it has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rrise.trainer.errors import TrainerError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

SMALL_BATCH = 1 << 16
"""Numbers in a batch below which one thread trains faster than two, and casting to bfloat16 costs more than it saves."""


def choose_device(wanted: str) -> torch.device:
    """The device called `wanted`: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".

    Raises TrainerError where it is unknown or not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdigit())):
        raise TrainerError(f"device: got {wanted!r}, expected auto, cpu, cuda or cuda:1")
    if kind == "cuda":
        _check_cuda(wanted, int(number or 0))
    return torch.device(wanted)


def _check_cuda(wanted: str, number: int) -> None:
    if not torch.cuda.is_available():
        why = "it was built without CUDA" if torch.version.cuda is None else "it finds no GPU or driver"
        raise TrainerError(
            f"device: got {wanted!r}, but this PyTorch ({torch.__version__}) has none: {why}; expected auto or cpu"
        )
    if number >= torch.cuda.device_count():
        raise TrainerError(
            f"device: got {wanted!r}, expected one of the {torch.cuda.device_count()} that are there, counted from cuda:0"
        )


def choose_precision(wanted: str, device: torch.device, batch_numbers: int) -> str:
    """The precision of the network's forward pass; weights stay float32.

    wanted: "auto" is bfloat16 where the hardware computes in it and the batches are large enough to gain from it.
    batch_numbers: how many numbers a batch of inputs holds.
    """
    if wanted not in PRECISIONS:
        raise TrainerError(f"precision: got {wanted!r}, expected one of {', '.join(PRECISIONS)}")
    if wanted != "auto":
        return wanted
    return "bfloat16" if batch_numbers >= SMALL_BATCH and has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16: GPUs since Ampere, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


def describe_hardware(device: torch.device, precision: str, processes: int) -> dict[str, object]:
    """What weights depend on beside the settings: a training on another machine ends with other ones."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "device": gpu or "cpu",
        "precision": precision,
        "processes": processes,
        "torch": torch.__version__,
    }


def layout_for(network: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory layout to train in: channels_last, which convolutions are fastest in.

    On the CPU PyTorch (2.13, oneDNN) writes beyond its memory there in the backward pass of strided 1x1 convolutions of fewer
    than eight channels; such narrow networks keep the plain layout.
    """
    narrow = any(
        isinstance(part, nn.Conv2d)
        and part.kernel_size == (1, 1)
        and part.stride != (1, 1)
        and part.in_channels < 8
        for part in network.modules()
    )
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


@contextmanager
def threads_for(batch_numbers: int) -> Iterator[None]:
    """Keep PyTorch to one thread while batches are small.

    A second thread then waits more than it computes: 11 against 133 seconds of processor time for the digits' base
    classifier on a machine that other processes share.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_numbers < SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def numbers_per_batch(batch_size: int, shape: tuple[int, ...]) -> int:
    """How many numbers a batch of inputs of `shape` holds."""
    return batch_size * math.prod(shape)
