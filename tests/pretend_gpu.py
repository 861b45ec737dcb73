"""A GPU that is not there: tensors compute on the processor but say that they lie on cuda:0, and mixing the two is an error.

What a GPU refuses is refused: tensors of two devices in one call, a generator of the other device, `numpy()` of a tensor on the
GPU and, while a CUDA graph is captured, whatever waits for the device. A graph replays what was captured, on the memory
that it was captured with: a step that reads a tensor which has moved since goes wrong, as it would on a GPU.

Not imitated: kernels, their rounding, memory and speed; several streams; torch.compile; what C++ does without asking Python.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
CROSSING = ("copy_", "to", "cpu", "cuda", "type_as")
INDEXING = ("__getitem__", "__setitem__")
WAITING = (
    "item",
    "tolist",
    "cpu",
    "nonzero",
    "equal",
    "allclose",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
)
CAPTURING: list[Capture] = []


class OnGpu(torch.Tensor):
    """A tensor on cuda:0."""

    device = property(lambda self: CUDA)
    is_cuda, is_cpu = True, False

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **named: Any) -> Any:
        return self.numpy()

    def pin_memory(self, device: Any = None) -> Any:
        raise RuntimeError("cannot pin a tensor on cuda:0, only dense CPU tensors can be pinned")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = moved(self.detach().clone(), CUDA.type).requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), made)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Sees the calls that make tensors, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


class Capture:
    """A torch.cuda.CUDAGraph: calls with the memory that they read and write."""

    def __init__(self) -> None:
        self.work: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def replay(self) -> None:
        for func, args, kwargs, made in self.work:
            for old, new in zip(made, tensors(call(func, args, kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    @contextlib.contextmanager
    def remembering(self, given: list[torch.Tensor]) -> Iterator[None]:
        """What a call overwrites is put back in the end: capturing runs nothing."""
        before = [(item, item.clone()) for item in given]
        yield
        self.before += [(item, value) for item, value in before if not torch.equal(item, value)]


@contextlib.contextmanager
def graph(captured: Capture, **_: Any) -> Iterator[None]:
    """torch.cuda.graph."""
    CAPTURING.append(captured)
    try:
        yield
    finally:
        CAPTURING.remove(captured)
        for place, value in reversed(captured.before):
            place.copy_(value)
        captured.before.clear()


class Generator(torch.Generator):
    """torch.Generator: the processor's, with the type of the device that it stands for."""

    place = CPU.type

    def __new__(cls, device: Any = CPU) -> Generator:
        made: Generator = super().__new__(cls)
        made.place = torch.device(device).type
        return made

    def __init__(self, device: Any = CPU) -> None:
        super().__init__()


def tensors(tree: Any) -> list[torch.Tensor]:
    return [item for item in tree_iter(tree) if isinstance(item, torch.Tensor)]


def moved(tree: Any, where: str) -> Any:
    """Every tensor of a result as one of its device."""
    wanted = OnGpu if where == CUDA.type else torch.Tensor
    with torch._C.DisableTorchFunction():
        return tree_map(
            lambda item: (
                item.as_subclass(wanted)
                if isinstance(item, torch.Tensor) and isinstance(item, OnGpu) is not (wanted is OnGpu)
                else item
            ),
            tree,
        )


def asked(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The device that a call names, or None."""
    if name == "cpu":
        return CPU
    if name in ("cuda", "to", "type_as"):
        named = [
            item
            for item in (*args[1:], *kwargs.values())
            if isinstance(item, (str, torch.device, torch.Tensor))
        ]
        devices = [item.device if isinstance(item, torch.Tensor) else torch.device(item) for item in named]
        return devices[0] if devices else CUDA if name == "cuda" else None
    return None if kwargs.get("device") is None else torch.device(kwargs["device"])


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """One call on the processor, after what a GPU would object to."""
    name, given = getattr(func, "__name__", ""), tensors((args, kwargs))
    there = [item for item in given if isinstance(item, OnGpu)]
    wanted = asked(func, name, args, kwargs)
    target = (wanted or (CUDA if there else CPU)).type
    generator = kwargs.get("generator")
    if generator is not None and getattr(generator, "place", CPU.type) != target:
        raise RuntimeError(f"{name}: Expected a {target!r} device type for generator")
    if not there and target == CPU.type:
        return func(*args, **kwargs)
    here = [item for item in given if not isinstance(item, OnGpu)]
    if name == "_has_compatible_shallow_copy_type" and there and here:
        return False  # `module.to` asks: it would exchange the data of a parameter, whose class says where it lies
    mixed = any(item.ndim for item in here) and not (name in INDEXING and isinstance(args[0], OnGpu))
    if there and name not in CROSSING and mixed:
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, got cuda:0 and cpu")
    if CAPTURING and (name in WAITING or here or target == CPU.type):
        raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
    onward = [
        CPU if isinstance(item, (str, torch.device)) and asked(func, name, (0, item), {}) else item
        for item in args
    ]
    named = {**kwargs, **({"device": CPU} if "device" in kwargs else {})}
    named.pop("pin_memory", None)
    if name in ("cuda", "type_as"):
        func, onward, named = torch.Tensor.to, [args[0], CPU, *onward[1:]][:2], {}
    with (
        torch._C.DisableTorchFunction(),
        CAPTURING[-1].remembering(given) if CAPTURING else contextlib.nullcontext(),
    ):
        found = func(*onward, **named)
        crossed = bool(there) is not (target == CUDA.type) and isinstance(found, torch.Tensor)
        if crossed and name in CROSSING and found.data_ptr() == args[0].data_ptr():
            found = found.clone(memory_format=torch.preserve_format)
    found = moved(found, target)
    if CAPTURING:
        CAPTURING[-1].work.append((func, args, kwargs, tensors(found)))
    return found


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One GPU, "cuda:0", for as long as the test runs."""
    stream = SimpleNamespace(synchronize=lambda: None, wait_stream=lambda other: None, cuda_stream=0)
    autocast, nothing = torch.autocast, contextlib.nullcontext()
    for name, value in {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "_lazy_init": lambda: None,
        "get_device_name": lambda device=None: "a pretended GPU", "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *_: True, "synchronize": lambda device=None: None, "empty_cache": lambda: None,
        "manual_seed_all": lambda seed: None, "get_rng_state": lambda device: None,
        "set_rng_state": lambda state, device: None, "current_stream": lambda device=None: stream, "Stream": lambda *_: stream,
        "stream": lambda stream: nothing, "device": lambda device: nothing, "CUDAGraph": Capture, "graph": graph,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **named: autocast("cpu", *args, **named))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("rrise.trainer.montecarlo.device_counter._has_triton", lambda: False)
    with Calls():
        yield
