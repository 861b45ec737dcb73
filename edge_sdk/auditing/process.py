"""Audits beside a camera loop: frames go to a separate process, its verdicts into the certifier's evidence."""

from __future__ import annotations

import math
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Optional

import numpy as np

import rrise
from rrise.calibration.errors import RriseError
from rrise.edge_sdk.auditing.base_classifier import BaseModel
from rrise.edge_sdk.auditing.judge import Judgement, Verdict
from rrise.edge_sdk.auditing.worker import receive, send
from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.certifier import Certifier
from rrise.edge_sdk.confirming.classifier import base_difference
from rrise.edge_sdk.confirming.preprocess import FramePreprocess
from rrise.edge_sdk.device.audit import AuditLog
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.inputs import Roi, prepare_frame

_WORKER = "rrise.edge_sdk.auditing.worker"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class AuditSettings:
    """How audits are made.

    Attributes:
        interval: seconds between audited frames, at least the time after which the robot sees another scene: the
            evidence supposes that audits err independently of each other.
        rate: evaluations of the base classifier per second, at most.
        max_samples: evaluations per audit; a question that is open after them counts as right.
        slip: probability with which a right certificate is called wrong; the evidence allows for it.
        waiting: frames that may wait; one that comes when they do is dropped.
        restarts: how often a process that died or hung is started again.
        timeout: seconds after which an audit counts as hung; None: a minute and twice what the rate asks for.
        provider: of ONNX Runtime, for the base classifier.
    """

    interval: float = 60.0
    rate: float = 50.0
    max_samples: int = 2000
    slip: float = 0.001
    waiting: int = 2
    restarts: int = 3
    timeout: Optional[float] = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        numbers = 0 <= self.interval < math.inf and 0 < self.rate < math.inf and 0 < self.slip < 1
        whole = self.max_samples >= 1 and self.waiting >= 1 and self.restarts >= 0
        if not (numbers and whole and (self.timeout is None or self.timeout > 0)):
            raise EdgeError(
                f"audit settings: got {self}; expected interval >= 0, rate > 0, 0 < slip < 1, max_samples and waiting"
                " >= 1, restarts >= 0, timeout > 0"
            )

    @property
    def patience(self) -> float:
        """Seconds after which an audit counts as hung."""
        return 60.0 + 2.0 * self.max_samples / self.rate if self.timeout is None else self.timeout


@dataclass
class AuditCounts:
    """Frames taken for an audit, dropped because others waited, and what became of the taken ones."""

    taken: int = 0
    dropped: int = 0
    right: int = 0
    wrong: int = 0
    undecided: int = 0
    lost: int = 0
    samples: int = 0


@dataclass(frozen=True)
class _Job:
    """What waits: x float32 [C, h, w], or None for a frame without a certificate, which is not wrong."""

    x: Optional[np.ndarray]
    label: int
    radius: float


class WorkerFailed(EdgeError):
    """The audit process died, hung, or said why it cannot go on."""


class AuditProcess:
    """Offers frames of a camera loop to a separate process; nothing of it ever waits in `offer`.

        with AuditProcess(certifier) as audits:      # asks the base.onnx that the bundle carries
            for frame, certificate in certifier.stream(0):
                audits.offer(frame, certificate)

    A verdict goes into `Certifier.record_audit`, which suspends at its alarm. `problem` says why audits are not made
    any more, or what went wrong last; certificates go on then, as they do where no audits were asked for.

    Attributes:
        counts: of frames and verdicts. base: what is asked. problem: empty while all is well.
        difference: what is subtracted, and added to `slip`, where another engine is asked than the one that counted.

    **Guarantee**: that of `Certifier.record_audit`, where frames further apart than `interval` err independently, and where
    the engine asked differs from the one that counted by no more than was measured on the tuning frames (`difference`).

    Raises:
        EdgeError: the bundle promises nothing about frames, `slip` is not small beside its error level, its preprocessing
            cannot be repeated here, or engines differ so much that an audit could find nothing.
        BundleError: no base classifier is given, and the bundle carries none.
    """

    def __init__(
        self,
        certifier: Certifier,
        base: Optional[BaseModel] = None,
        settings: Optional[AuditSettings] = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = BaseModel.bundled(certifier.bundle) if base is None else base
        self.counts, self.problem = AuditCounts(), ""
        self.settings = AuditSettings() if settings is None else settings
        self._certifier, self._bundle, self._clock = certifier, certifier.bundle, clock
        guarantee = certifier.guarantee
        if guarantee is None:
            raise EdgeError("audit: this artefact was never calibrated, so there is nothing to audit")
        self.difference = base_difference(certifier.bundle.manifest, self.settings.provider)
        self._slip = self.settings.slip + self.difference.slip
        if self._slip > float(guarantee.error) / 2:
            raise EdgeError(
                f"audit: got slip {self._slip:g}, expected at most half of the bundle's error level"
                f" {float(guarantee.error):g} ({self.difference.sentence})"
            )
        if self.difference.tolerance >= 0.5:
            raise EdgeError(
                f"audit: {self.difference.sentence}; expected a tolerance below 0.5, since no certificate could be found wrong;"
                " compare with more draws (`rrise-train agree WORKSPACE --draws 1000000`) and export again"
            )
        # Refuses what cannot be counted now and not at the first verdict.
        try:
            AuditLog(self._bundle, certifier.execution, guarantee)
        except OSError as error:
            raise EdgeError(
                f"audit: the log cannot be kept ({error}); make the bundle's device folder writable"
            ) from error
        self._selective = guarantee.rules.among_issued
        self._preprocess = FramePreprocess.of(self._bundle.manifest)
        self._next, self._given_up, self._closing = -math.inf, False, False
        self._jobs: "queue.Queue[Optional[_Job]]" = queue.Queue(self.settings.waiting)
        self._guard = threading.Lock()
        self._worker: Optional[_Worker] = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="rrise-audits", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether frames are still taken."""
        return not (self._given_up or self._closing)

    def offer(
        self,
        frame: Any,
        certificate: Certificate,
        *,
        encoding: Optional[str] = None,
        roi: Optional[Roi] = None,
    ) -> bool:
        """Take this frame for an audit if it is time for one; whether it was taken. Never waits.

        Whether it is time does not depend on the answer, except that the selective kind audits issued certificates only.

        Args:
            frame, encoding, roi: as given to `certify`; the frame is copied.
            certificate: of that very frame, from this certifier or a clone; also after `confirm`.
        """
        # Of a certificate that was confirmed or refuted since, what is audited is the one that was issued: leaving those
        # out would leave the open ones, which are the doubtful ones.
        issued = certificate.issued_radius
        if not (self.running and certificate.answered) or (self._selective and issued == 0.0):
            return False
        if self._clock() < self._next:
            return False
        if self._certifier.bundle is not self._bundle:
            self._give_up("the certifier went over to another bundle; start audits of that one")
            return False
        self._next = self._clock() + self.settings.interval
        if self._jobs.full():
            self.counts.dropped += 1
            return False
        signature = self._certifier.runtime.graph.signature
        try:
            prepared = prepare_frame(frame, signature, self._preprocess.encoding, encoding=encoding, roi=roi)
        except FrameError:
            return False
        x = self._preprocess(prepared.frame) if issued > 0.0 else None
        label = -1 if certificate.label is None else certificate.label
        # The only producer is this thread, so there still is room.
        self._jobs.put_nowait(_Job(x, label, issued))
        self.counts.taken += 1
        return True

    def rows(self) -> Dict[str, str]:
        """Name and value of the lines of a summary."""
        told = ", ".join(
            f"{count} {name}" for name, count in asdict(self.counts).items() if name != "samples"
        )
        state = "running" if self.running and not self._failures else self.problem or "closed"
        return {
            "audits": told,
            "audit process": state,
            "audit base": self.base.proof,
            "audit engine": self.difference.sentence,
        }

    def finish(self, timeout: Optional[float] = None) -> None:
        """Take no more frames, let those that wait be judged, and end: for recordings. Then as `close`."""
        if self._thread.is_alive() and not self._closing:
            self._given_up = True
            with suppress(queue.Full):
                self._jobs.put(None, timeout=timeout)
                self._thread.join(timeout)
        self.close()

    def close(self) -> None:
        """End the process at once; what waits is not counted."""
        with self._guard:
            self._closing = True
            if self._worker is not None:
                self._worker.kill()
        with suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join()

    def __enter__(self) -> "AuditProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        """The thread between both sides."""
        try:
            self._judge_all()
        except Exception as error:  # a thread that ends unheard would look like audits that find nothing
            self._give_up(f"audits ended: {type(error).__name__}: {error}")
        self._drop_worker()

    def _judge_all(self) -> None:
        """Ask for one verdict after the other and record it."""
        while not self._closing:
            job = self._jobs.get()
            if job is None:
                break
            judgement = Judgement(Verdict.RIGHT, 0) if job.x is None else self._ask(job)
            if self._closing:
                break
            name = judgement.verdict.value
            setattr(self.counts, name, getattr(self.counts, name) + 1)
            self.counts.samples += judgement.samples
            self._record(judgement.verdict is Verdict.WRONG)

    def _record(self, wrong: bool) -> None:
        try:
            self._certifier.record_audit(wrong, slip=self._slip, bundle=self._bundle)
        except RriseError as error:
            # Evidence that cannot be read any more may have been evidence against the bundle.
            self._certifier.suspend(f"audits: {error}")
            self._give_up(str(error))

    def _ask(self, job: _Job) -> Judgement:
        if self._failures > self.settings.restarts:
            return Judgement(Verdict.LOST, 0)
        try:
            worker = self._started()
            return worker.judge(job, self.settings.patience)
        except (WorkerFailed, OSError) as error:
            self._drop_worker()
            if self._closing:
                return Judgement(Verdict.LOST, 0)
            self._failures += 1
            self.problem = f"the audit process failed {self._failures} times: {error}"
            if self._failures > self.settings.restarts:
                self._give_up(f"{self.problem}; no more audits are made")
            return Judgement(Verdict.LOST, 0)

    def _started(self) -> "_Worker":
        with self._guard:
            if self._closing:
                raise WorkerFailed("closed")
            if self._worker is None:
                self._worker = _Worker([sys.executable, "-m", _WORKER])
            elif self._worker.ready:
                return self._worker
            worker = self._worker
        manifest = self._bundle.manifest
        setup: Dict[str, Any] = {
            "input_shape": list(self._preprocess.output_shape),
            "classes": len(manifest.class_names),
            "sigma": manifest.sigma,
            "tolerance": self.difference.tolerance,
            **{name: getattr(self.settings, name) for name in ("provider", "rate", "slip", "max_samples")},
        }
        worker.set_up(setup, self.base.data)
        return worker

    def _drop_worker(self) -> None:
        with self._guard:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _give_up(self, why: str) -> None:
        self._given_up, self.problem = True, why


class _Worker:
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

    def judge(self, job: _Job, patience: float) -> Judgement:
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
