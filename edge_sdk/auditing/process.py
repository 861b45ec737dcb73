"""Audits beside a camera loop: frames go to a separate process, its verdicts into the certifier's evidence."""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Callable, Dict, Optional

from rrise.calibration.errors import RriseError
from rrise.edge_sdk.auditing.base_classifier import BaseModel
from rrise.edge_sdk.auditing.judge import Judgement, Verdict
from rrise.edge_sdk.auditing.pipes import Job, Worker, WorkerFailed
from rrise.edge_sdk.auditing.settings import AuditCounts, AuditSettings
from rrise.edge_sdk.certificate import Certificate
from rrise.edge_sdk.certifier import Certifier
from rrise.edge_sdk.confirming.classifier import base_difference
from rrise.edge_sdk.confirming.preprocess import FramePreprocess
from rrise.edge_sdk.device.audit import AuditLog
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.inputs import Roi, prepare_frame

_WORKER = "rrise.edge_sdk.auditing.worker"


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
        self._jobs: "queue.Queue[Optional[Job]]" = queue.Queue(self.settings.waiting)
        self._guard = threading.Lock()
        self._worker: Optional[Worker] = None
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
        self._jobs.put_nowait(Job(x, label, issued))
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
        except Exception as error:  # noqa: BLE001 - a thread that ends unheard looks like audits that find nothing
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

    def _ask(self, job: Job) -> Judgement:
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

    def _started(self) -> "Worker":
        with self._guard:
            if self._closing:
                raise WorkerFailed("closed")
            if self._worker is None:
                self._worker = Worker([sys.executable, "-m", _WORKER])
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
