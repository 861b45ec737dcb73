"""The audit process: reads frames from its standard input, answers verdicts on its standard output, at low priority.

Not started by hand: `auditing.process` does. It ends when its input ends, so it never outlives the robot's program.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any, BinaryIO, Dict, Tuple

import numpy as np

from rrise.calibration.errors import RriseError
from rrise.calibration.storage.files import parse_json
from rrise.edge_sdk.auditing.judge import Pace, judge_certificate
from rrise.edge_sdk.confirming.classifier import open_base

_NICENESS = 19
_OPEN_BATCH = 16
_LONGEST_LINE, _LARGEST_PAYLOAD = 1 << 20, 2 << 30
"""Bytes of the line of a message, and of what it announces: at most the largest ONNX file."""


def send(stream: BinaryIO, value: Dict[str, Any], payload: bytes = b"") -> None:
    """One message: a line of JSON and the bytes that it announces."""
    stream.write(json.dumps(dict(value, bytes=len(payload))).encode() + b"\n" + payload)
    stream.flush()


def receive(stream: BinaryIO) -> Tuple[Dict[str, Any], bytes]:
    """The next message. Raises: EOFError: the other side is gone. ValueError: it sent something else."""
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a message line of more than {_LONGEST_LINE:,} bytes")
        raise EOFError("no more messages")
    value = parse_json(line)
    size = value.pop("bytes", None) if isinstance(value, dict) else None
    if not isinstance(size, int) or not 0 <= size <= _LARGEST_PAYLOAD:
        raise ValueError(f"a message of {size!r} bytes, expected at most {_LARGEST_PAYLOAD:,}")
    return value, stream.read(size)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer messages until the source ends: first the classifier and its settings, then frames."""
    setup, model = receive(source)
    try:
        shape = tuple(int(side) for side in setup["input_shape"])
        base = open_base(model, setup["provider"], (shape[0], shape[1], shape[2]), setup["classes"])
        # Small batches keep to the rate smoothly; a fixed batch is what it is.
        batch = base.fixed or max(1, min(_OPEN_BATCH, int(setup["rate"])))
        pace = Pace(setup["rate"])
    except RriseError as error:
        send(sink, {"error": str(error)})
        return
    send(sink, {"ready": True, "batch": batch})
    while True:
        job, data = receive(source)
        try:
            judgement = judge_certificate(
                base.classify,
                np.frombuffer(data, np.float32).reshape(shape),
                int(job["label"]),
                float(job["radius"]),
                sigma=setup["sigma"],
                slip=setup["slip"],
                tolerance=setup["tolerance"],
                max_samples=setup["max_samples"],
                batch_size=batch,
                pace=pace,
            )
        except Exception as error:  # noqa: BLE001 - runtimes' exceptions have no common base; the robot hears of each
            send(sink, {"error": f"{type(error).__name__}: {error}"})
            return
        send(sink, asdict(judgement))


def main() -> None:
    """Run as `python -m rrise.edge_sdk.auditing.worker`."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # Whatever a runtime prints must not come between the messages.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, sink)
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    main()
