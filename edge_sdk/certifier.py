"""The certifier: load a bundle, certify frames, clone, swap and roll back, stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional, Union

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.execution import Execution
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.certifying.asking import Asking
from rrise.edge_sdk.certifying.exchange import check_exchangeable
from rrise.edge_sdk.certifying.loaded import Course, FrameGuard, Loaded
from rrise.edge_sdk.device.audit import AuditLog
from rrise.edge_sdk.device.drift import DriftMonitor
from rrise.edge_sdk.device.loading import choose_execution, execution_state, matches_probe, readable, warm_up
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.formats.signing import Trust
from rrise.edge_sdk.frames.channels import ChannelOrder
from rrise.edge_sdk.runtime.select import candidates

if TYPE_CHECKING:
    from rrise.edge_sdk.confirming.settings import Confirm
    from rrise.edge_sdk.stream.checks import CheckSettings
    from rrise.edge_sdk.stream.stream import Stream, StreamSettings


class Certifier(Asking):
    """Certifies frames with one bundle on one runtime. Build one with `Certifier.load`, one per thread.

    Bundles of the guarded tier draw fresh noise for every pass, and several passes of which the best is kept void the
    guarantee: there a frame that was given before, to this certifier or a clone, is refused (`device.once`).

    `certify` never raises for data: a frame of a wrong type, shape or content gives an uncertified certificate of
    status `invalid_input`, and a failing runtime gives status `fault` from then on, so that a camera loop lives on.
    Misuse raises `EdgeError`: a closed certifier, or two threads in one certifier.
    """

    @classmethod
    def load(
        cls,
        path: PathLike,
        *,
        artefact: Optional[str] = None,
        runtime: str = "auto",
        provider: Optional[str] = None,
        threads: int = 1,
        allow_unverified: bool = False,
        trust: Optional[Trust] = None,
        checks: Union[bool, CheckSettings] = False,
    ) -> "Certifier":
        """Open a bundle, check all of it, load a runtime, check that too, and warm it up.

        Args:
            path: the bundle's folder.
            artefact: which of its graphs, as in "fp32"; by default the first calibrated one.
            runtime: "onnxruntime", "tensorrt", or "auto" for the first of TensorRT, ONNX Runtime on a GPU and on the
                processor that works here and was calibrated or verified (`why` says what was passed over).
            provider: of ONNX Runtime: "cpu", "cuda" or "tensorrt"; strict.
            threads: of ONNX Runtime; more than one is another execution.
            allow_unverified: issue certificates on an execution that was neither calibrated nor verified here.
                The guarantee then does not cover them.
            trust: load only what this key signed, no older release than seen before, and only signed device records.
            checks: refuse frames that show nothing: dark, frozen, uniform or noise (True: all of them; or settings). For
                one camera's frames in order; a stream has checks of its own. Frames in GPU memory are not looked at.

        A certifier for single uint8 frames in colour, that nobody names the encoding of, compares 32 of the first frames
        with red and blue exchanged, and warns once (`RuntimeWarning`, and `hint`) where most fit better that way.

        Raises:
            BundleError: the bundle is damaged, contradicts itself, or is not what `trust` asks for.
            RuntimeUnavailable: the runtime or provider is not there.
        """
        with readable(path):
            bundle = Bundle.open(path, trust=trust)
            name = bundle.artefact_name(artefact)
            usable = candidates(bundle, name, runtime=runtime, provider=provider, threads=threads)
            chosen = choose_execution(bundle, name, usable)
            try:
                monitor = DriftMonitor.load(bundle, chosen.runtime.execution)
                warm_up(chosen.runtime)
                if trust is not None and bundle.signature is not None:
                    trust.remember(bundle.signature)
            except BaseException:
                chosen.runtime.close()
                raise
        options = {
            "artefact": artefact,
            "runtime": runtime,
            "provider": provider,
            "threads": threads,
            "allow_unverified": allow_unverified,
            "trust": trust,
            "checks": checks,
        }
        signature = chosen.runtime.graph.signature
        colour = signature.dtype == "uint8" and signature.frame_shape[2:] == (3,)
        compared = colour and signature.batch_size == 1 and bundle.manifest.guard is None
        loaded = Loaded(
            bundle,
            name,
            chosen.runtime,
            chosen.state,
            chosen.why,
            allow_unverified,
            monitor,
            _frame_checks(checks),
            None if bundle.manifest.guard is None else Once(),
            course=Course(channels=ChannelOrder() if compared else None),
        )
        loaded.look()
        return cls(loaded, options)

    def clone(self) -> "Certifier":
        """A certifier for another thread on the same weights; a suspension of one holds for both.

        The drift monitor stays with the original, so a clone is also what to give frames that no camera delivers now:
        benchmarks, replays. Closing one leaves the other open.
        """
        loaded = self._loaded
        if self._ended or loaded.course.fault is not None:
            raise EdgeError(
                "clone: this certifier is closed, failed or another process's; load a new one with `Certifier.load`"
            )
        confirmer = loaded.course.confirmer
        twin = Certifier(
            replace(
                loaded,
                runtime=loaded.runtime.clone(),
                why=f"{loaded.why} (clone)",
                monitor=None,
                guard=_frame_checks(self._load_options.get("checks", False)),
                course=Course(confirmer=None if confirmer is None else confirmer.clone()),
            ),
            self._load_options,
        )
        twin._tested = self._tested
        # Looking at the device anew may show what another process found.
        found = twin._loaded.reason_to_withhold()
        loaded.hold.why = loaded.hold.why or found
        return twin

    def swap(self, path: PathLike) -> None:
        """Go over to another bundle between two frames, loaded with this certifier's options; the old one is kept.

        Loading and every check happen before, in the calling thread, while another thread may go on certifying. Clones
        are not swapped. A suspension is carried over, since its cause may lie in what the camera sees: `reset` lifts it,
        once somebody has made sure that the new bundle mends it.

        Raises:
            BundleError, RuntimeUnavailable: the new bundle cannot be used; the old one stays in use.
            EdgeError: it takes other frames, has other classes or is of another tier, which the camera loop is not made
                for; or this certifier is closed.
        """
        trust: Optional[Trust] = self._load_options.get("trust")
        looking = {**self._load_options, "trust": None if trust is None else trust.only_looking()}
        new = Certifier.load(path, **looking)
        new._load_options = self._load_options
        superseded, noted = self._previous, False
        try:
            check_exchangeable(self.bundle.manifest, new.bundle.manifest)
            confirmer = self._loaded.course.confirmer
            if confirmer is not None and new.can_confirm:  # not in the time of the next frame
                new.load_base(batch_size=confirmer.batch_size)
            # Not before: a release that was refused must not lock out the one in use at the next start.
            if trust is not None and new.bundle.signature is not None:
                noted = trust.remember(new.bundle.signature)
            # What was answered before stays answered: with another draw of noise it would be asked twice.
            self._previous = self._take_over(replace(new._loaded, once=self._loaded.once))
        except BaseException:
            new.close()
            if trust is not None and noted:
                trust.return_to(self.bundle.signature, new.bundle.signature)
            raise
        if superseded is not None:
            superseded.runtime.close()

    def rollback(self) -> None:
        """Go back to the bundle before the last `swap`, as this device knows it now.

        A suspension, a margin or a withdrawn record that came meanwhile counts. A suspension is carried over, as by `swap`.
        The release log lets the earlier bundle load at the next start, too.

        Raises:
            EdgeError: there was no swap, or it was rolled back already; or the log cannot be written, after the rollback.
            BundleError: what this device keeps about the earlier bundle was changed; the present one stays in use.
        """
        if self._previous is None:
            raise EdgeError("rollback: there is no earlier bundle to go back to")
        earlier = self._previous
        if earlier.course.fault is None:
            bundle, name, runtime = earlier.bundle, earlier.artefact, earlier.runtime
            with readable(bundle.path):
                state = execution_state(bundle, name, runtime, matches_probe(bundle, name, runtime))
            earlier = replace(earlier, state=state)
        abandoned = self._take_over(earlier)
        self._previous = None
        abandoned.runtime.close()
        trust: Optional[Trust] = self._load_options.get("trust")
        if trust is not None:
            trust.return_to(self.bundle.signature, abandoned.bundle.signature)

    def _take_over(self, loaded: Loaded) -> Loaded:
        """Answer from `loaded` between two frames; what answered before is returned. Raises: EdgeError: closed."""
        if self._entry.locked() and not self._occupied():
            self._entry.release()  # left behind by a signal handler's exception
        self._swapping = True
        try:
            with self._audit_entry, self._entry:
                if self._closed:
                    raise EdgeError("swap: this certifier is closed; load a new one with `Certifier.load`")
                before, self._loaded = self._loaded, loaded
                if loaded.suspended is None:
                    loaded.look()  # what this device knows now
                # Read after the exchange: who suspends in another thread looks after that which answers then.
                held = before.suspended
                if held is not None and loaded.suspended is None:
                    loaded.suspend(f"carried over from the bundle before: {held}")
        finally:
            self._swapping = False
            if self._closed:
                self._free()
        if before.monitor is not None:
            before.monitor.save()
        return before

    def record_audit(self, wrong: bool, *, slip: float = 0.0, bundle: Optional[Bundle] = None) -> None:
        """Take note of an audit of one frame; certificates are suspended once they are wrong too often.

        Choose the frames without looking at their certificates, and count every one of them: a frame without a
        certificate is not wrong (for the selective kind, count frames with a certificate only). Undecided is not wrong.
        Any thread may call it. `auditing.process.AuditProcess` does all of this.

        Args:
            slip: probability with which this way of auditing calls a right certificate wrong.
            bundle: whose certificate was audited; after a `swap` it is not counted for the new one. None: this one's.

        Raises:
            EdgeError: the bundle's guarantee does not speak of frames, or the artefact has none.

        **Guarantee**: while each audited frame is wrong with probability at most the bundle's error level, there is
        ever an alarm with probability at most `audit.ALPHA`.
        """
        with self._audit_entry:
            loaded = self._loaded
            if bundle is not None and bundle is not loaded.bundle:
                return
            if self.guarantee is None:
                raise EdgeError("record_audit: this artefact was never calibrated, so it promises nothing")
            try:
                if loaded.course.audits is None:
                    loaded.course.audits = AuditLog(loaded.bundle, self.execution, self.guarantee)
                alarm = loaded.course.audits.add(wrong, slip)
            except OSError as error:
                alarm = f"audits: the log cannot be kept ({error})"
            if alarm:
                loaded.suspend(alarm)

    @property
    def why(self) -> str:
        """Which runtime was chosen, and why not the others."""
        return self._loaded.why

    @property
    def withheld(self) -> str:
        """Why every certificate is withheld now (suspended, unverified), or an empty text."""
        held = self._loaded.hold.why
        return "" if held is None else held[1]

    @property
    def execution(self) -> Execution:
        """Which computation answers."""
        return self.runtime.execution

    @property
    def guarantee(self) -> Optional[Guarantee]:
        """What certificates of this bundle promise; None for an artefact that was never calibrated."""
        loaded = self._loaded
        record = loaded.bundle.calibrations.get(loaded.artefact)
        return None if record is None else record.guarantee

    @property
    def fault(self) -> Optional[Exception]:
        """The runtime's failure that ended this certifier, or None. Load a new one to go on."""
        return self._loaded.course.fault

    def stream(
        self,
        source: Any,
        settings: Optional[StreamSettings] = None,
        *,
        topic: Optional[str] = None,
        encoding: Optional[str] = None,
        confirm: Optional[Confirm] = None,
    ) -> "Stream":
        """Certify every frame of a source: `for frame, certificate in certifier.stream(0)`.

        Args:
            source: camera number, GStreamer pipeline, URI, video file, image folder, bag, MCAP file, OpenCV capture or
                any iterable of frames; see `rrise.edge_sdk.stream.sources.open_frame_source`.
            settings: staleness, deadline, dark and frozen checks.
            topic: of a bag or MCAP file with several image topics.
            encoding: of the frames of a camera, video or iterable, where it is not what they are taken for: bgr8, bgra8
                or mono8 by their shape from OpenCV, the bundle's from an iterable. Files, bags and messages say theirs.
            confirm: spend the rest of each frame's time on `confirm`, until the next frame waits; see `Confirm`.

        Raises:
            EdgeError: the source cannot be opened.
            BundleError: `confirm`, and the bundle does not carry its base classifier.
        """
        from rrise.edge_sdk.stream.sources import open_frame_source
        from rrise.edge_sdk.stream.stream import Stream, StreamSettings

        if confirm is not None:
            self.load_base(
                batch_size=confirm.batch_size
            )  # before a camera is opened, and not in the time of the first frame
        opened = open_frame_source(source, encoding=self._loaded.encoding, topic=topic, given=encoding)
        return Stream(self, opened, StreamSettings() if settings is None else settings, encoding, confirm)

    def close(self) -> None:
        """Release the runtime; afterwards `certify` raises. A frame that is being answered is answered first.

        Never waits, so a signal handler may call it.
        """
        self._closed = self._ended = True
        self._free()

    def __enter__(self) -> "Certifier":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _frame_checks(checks: Union[bool, CheckSettings]) -> Optional[FrameGuard]:
    """What `checks` of `Certifier.load` asks for."""
    if not checks:
        return None
    from rrise.edge_sdk.stream.checks import CheckSettings, FrameChecks

    return FrameChecks(checks if isinstance(checks, CheckSettings) else CheckSettings.all())
