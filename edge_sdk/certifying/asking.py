"""The asking half of `Certifier`: confirm a certificate for its own input, by the base classifier that the bundle carries."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Callable, Optional

import numpy as np

from rrise.edge_sdk.certificate import Certificate, Status
from rrise.edge_sdk.certifying.answering import Answering
from rrise.edge_sdk.certifying.loaded import Loaded
from rrise.edge_sdk.confirming.confirmation import Confirmation, Outcome, check_deadline, check_level
from rrise.edge_sdk.confirming.confirmer import Confirmer, never
from rrise.edge_sdk.confirming.memory import mark_of
from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.frames.inputs import Roi, prepare_frame


class Asking(Answering):
    """Adds `confirm` to what answers frames."""

    @property
    def can_confirm(self) -> bool:
        """Whether the bundle carries its base classifier."""
        return self.bundle.manifest.base is not None

    def load_base(
        self,
        *,
        batch_size: Optional[int] = None,
        provider: Optional[str] = None,
        clock: Optional[Callable[[], float]] = None,
    ) -> str:
        """Open the bundle's base classifier now, so that the first `confirm` need not; the engine that runs it.

        Args:
            batch_size: evaluations at once; None: as many as take a few milliseconds here.
            provider: of ONNX Runtime; None: "cuda" where this certifier runs there, else "cpu".
            clock: seconds that deadlines are counted in; None: real time.

        Raises:
            BundleError: the bundle does not carry it (`rrise-export onnx WORKSPACE --with-base`).
            EdgeError, RuntimeUnavailable: it cannot be run here.
        """
        loaded = self._loaded
        found = loaded.course.confirmer
        as_it_is = provider is None and clock is None
        if found is None or (batch_size or found.batch_size) != found.batch_size or not as_it_is:
            if provider is None:
                provider = "cuda" if loaded.runtime.execution.provider == "cuda" else "cpu"
            threads = int(self._load_options.get("threads", 1))
            found = Confirmer.open(
                loaded.bundle,
                provider=provider,
                threads=threads,
                batch_size=batch_size,
                clock=clock or perf_counter,
            )
            loaded.course.confirmer = found
        return found.engine

    def confirm(
        self,
        frame: Any,
        certificate: Certificate,
        deadline: float = 0.02,
        *,
        alpha: float = 0.001,
        encoding: Optional[str] = None,
        roi: Optional[Roi] = None,
    ) -> Certificate:
        """Spend up to `deadline` seconds on asking the base classifier about this very input.

        The certificate that is returned is under one promise (`Certificate.promise`):

        - `confirmed`: label and radius hold for this input but for a probability of alpha over the noise of the test. It is
          no statement over frames any more, and needs neither calibration nor exchangeability.
        - `certified`, as it was, where the question is open: the bundle's promise, with what is known in `confirmation`.
        - `refuted`: the radius is larger than the true one, but for a probability of alpha; radius 0.

        A certificate without a radius is returned as it is. The first call opens the base classifier, which takes longer than
        a frame: call `load_base` before the loop.

        Args:
            frame, encoding, roi: as given to `certify`; in host memory.
            certificate: of that very frame, from this certifier or a clone.
            deadline: seconds; a batch is begun only if it is likely to end in time.
            alpha: level per input, fixed here, before the first evaluation. Asking again about the same input goes on with the
                same test at the same level and spends nothing twice; another alpha for it is refused (`Memory`).

        Raises:
            EdgeError: closed, suspended or failed certifier; a frame that is not the certificate's; an input that was asked
                about with another label, radius or level; or arguments that are none.
            BundleError: the bundle does not carry its base classifier.

        **Guarantee**: the theorem in `rrise.edge_sdk.confirming.question`, for the base classifier as the engine in
        `confirmation.engine` computes it, on the input as the SDK preprocesses it in float32. What stays `certified` are the
        doubtful ones: the bundle's error level bounds all wrong certificates among all frames, not the share among those.
        """
        return self._confirm(frame, certificate, deadline, alpha, encoding, roi, never)

    def _confirm(
        self,
        frame: Any,
        certificate: Certificate,
        deadline: float,
        alpha: float,
        encoding: Optional[str],
        roi: Optional[Roi],
        stop: Callable[[], bool],
    ) -> Certificate:
        entered = perf_counter()
        deadline, alpha = check_deadline(deadline), check_level(alpha)
        if not isinstance(certificate, Certificate):
            raise EdgeError(f"confirm: got {type(certificate).__name__}, expected the frame's certificate")
        if not self._entry.acquire(False):
            self._enter_after_swap()
        try:
            loaded = self._loaded
            self._expect_issuing(loaded)
            waited = perf_counter() - entered
            if loaded.course.confirmer is None:  # which is not in the deadline
                self.load_base()
            confirmer = loaded.course.confirmer
            assert confirmer is not None
            start = confirmer.now() - waited
            if certificate.status is not Status.CERTIFIED or certificate.label is None:
                return certificate
            x = _input(loaded, confirmer, frame, certificate, encoding, roi)
            with self._tested.question(
                x,
                certificate.label,
                certificate.radius,
                sigma=loaded.bundle.manifest.sigma,
                alpha=alpha,
                base_digest=loaded.bundle.manifest.base_digest,
            ) as question:
                before = question.samples
                reason = confirmer.spend(question, x, start + deadline, stop)
                found = _confirmation(question, before, confirmer.now() - start, confirmer.engine, reason)
            self._expect_issuing(loaded)  # suspended meanwhile
            return upgraded(certificate, found)
        finally:
            self._leave()

    def _expect_issuing(self, loaded: Loaded) -> None:
        """Raises: EdgeError: certificates are withheld, or nobody is there."""
        if self._ended or loaded.course.fault is not None:
            self._refuse(loaded, 0.0, 0.0, None)  # raises where it is closed or another process's
            raise EdgeError(f"confirm: the runtime failed, load the bundle again: {loaded.course.fault}")
        held = loaded.hold.why
        if held is not None:
            raise EdgeError(f"confirm: certificates are withheld ({held[0]}): {held[1]}")


def _input(
    loaded: Loaded,
    confirmer: Confirmer,
    frame: Any,
    certificate: Certificate,
    encoding: Optional[str],
    roi: Optional[Roi],
) -> np.ndarray:
    """What noise is added to. Raises: EdgeError: not the certificate's frame, or none at all."""
    prepared = prepare_frame(
        frame, loaded.runtime.graph.signature, loaded.encoding, encoding=encoding, roi=roi
    ).frame
    if certificate.mark is None or certificate.mark != mark_of(np.ascontiguousarray(prepared)):
        raise EdgeError(
            "confirm: the frame's digest is not that of the certificate; pass the frame that `certify` was given, unchanged"
            " and in host memory, with its encoding and roi, and a certificate of this bundle"
        )
    return confirmer.input_of(prepared)


def _confirmation(question: Question, before: int, seconds: float, engine: str, reason: str) -> Confirmation:
    proved, outcome = question.proved, Outcome.OPEN
    if question.refuted:
        outcome, proved = Outcome.REFUTED, 0.0
        hits = f"{question.hits} of {question.samples}"
        reason = f"{hits} noisy evaluations gave the label, too few for the radius {question.radius:.4g}"
    elif question.confirmed:
        outcome, reason = Outcome.CONFIRMED, ""
    return Confirmation(
        outcome,
        question.alpha,
        question.radius,
        proved,
        question.samples,
        seconds,
        engine,
        reason,
        question.samples - before,
    )


def not_asked(certificate: Certificate, alpha: float, reason: str) -> Certificate:
    """An issued certificate that could not be asked about: open, with the reason."""
    return upgraded(
        certificate, Confirmation(Outcome.OPEN, alpha, certificate.radius, 0.0, 0, 0.0, "", reason)
    )


def upgraded(certificate: Certificate, found: Confirmation) -> Certificate:
    """The certificate under the promise that the test leaves it."""
    status = {Outcome.CONFIRMED: Status.CONFIRMED, Outcome.REFUTED: Status.REFUTED}.get(
        found.outcome, certificate.status
    )
    refuted = status is Status.REFUTED
    if found.outcome is Outcome.OPEN:
        reason = "; ".join(filter(None, (certificate.reason, f"not confirmed: {found.reason}")))
    else:
        reason = found.reason
    return Certificate(
        status,
        certificate.label,
        certificate.name,
        0.0 if refuted else certificate.radius,
        0.0 if refuted else certificate.frame_radius,
        certificate.capture_time,
        certificate.latency + found.seconds,
        certificate.frame_id,
        reason,
        found,
        certificate.mark,
    )
