"""The process that judges, as its owner sees it: started, asked, and killed where it does not answer."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Dict, List, Optional

import numpy as np

import rrise
from rrise.edge_sdk.auditing.judge import Judgement, Verdict
from rrise.edge_sdk.auditing.worker import receive, send
from rrise.edge_sdk.errors import EdgeError

_START_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """What waits: x float32 [C, h, w], or None for a frame without a certificate, which is not wrong."""

    x: Optional[np.ndarray]
    label: int
    radius: float


class WorkerFailed(EdgeError):
    """The audit process died, hung, or said why it cannot go on."""


class Worker:
    """The process and its pipes. Every exchange has a limit after which the process is killed, which ends any wait."""

    def __init__(self, command: List[str]) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        # From the folder of this package, so that the process runs the same code whatever the caller's folder holds.
        home = Path(rrise.__file__).parents[1]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, cwd=home
        )
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        self.ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def set_up(self, setup: Dict[str, Any], model: bytes) -> None:
        self._exchange(setup, model, _START_SECONDS)
        self.ready = True

    def judge(self, job: Job, patience: float) -> Judgement:
        assert job.x is not None
        answer = self._exchange({"label": job.label, "radius": job.radius}, job.x.tobytes(), patience)
        try:
            return Judgement(Verdict(answer["verdict"]), int(answer["samples"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerFailed(f"it answered {answer} ({error!r})") from error

    def _exchange(self, value: Dict[str, Any], payload: bytes, seconds: float) -> Dict[str, Any]:
        late = threading.Event()
        timer = threading.Timer(seconds, self._kill_late, [late])
        timer.daemon = True
        timer.start()
        try:
            send(self._stdin, value, payload)
            answer, _ = receive(self._stdout)
        except (OSError, EOFError, ValueError, TypeError) as error:
            if late.is_set():
                raise WorkerFailed(f"no answer within {seconds:g} s, so it was ended") from error
            raise WorkerFailed(f"it ended ({self._last_words()})") from error
        finally:
            timer.cancel()
        if "error" in answer:
            raise WorkerFailed(str(answer["error"]))
        return answer

    def _kill_late(self, late: threading.Event) -> None:
        late.set()
        self.kill()

    def _last_words(self) -> str:
        try:
            status: object = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.kill()
            status = "unknown"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"exit status {status}" + (f", {lines[-1]}" if lines else "")

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill it, collect it, and close its pipes."""
        self.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except OSError:  # what was still to be written has no reader any more
                continue
        self._stderr.close()
