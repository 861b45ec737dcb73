"""The commands of `rrise-edge` for a running robot: watch and doctor."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import click

from rrise.calibration.console import json_option, run_command, summary
from rrise.calibration.errors import CheckFailed
from rrise.edge_sdk.commands.options import (
    bundle_argument,
    confirm_of,
    confirm_options,
    runtime_options,
    trust_of,
    trust_options,
)

_BUNDLED = Path("bundled")
"""What `--audit` without a file stands for."""


@click.command()
@bundle_argument
@click.argument("source")
@click.option("--topic", help="Image topic of a bag or MCAP file.")
@click.option("--max-staleness", type=float, help="Seconds after which a frame is too old to be run.")
@click.option("--deadline", type=float, help="Seconds after which an answer comes too late.")
@click.option(
    "--replay",
    is_flag=True,
    help="For recordings: still or dark pictures are no fault, and no sign of drift.",
)
@click.option("--count", type=int, help="Stop after so many frames. [default: at the end of the source]")
@click.option("--metrics-port", type=int, help="Serve Prometheus metrics on this port.")
@click.option(
    "--metrics-address",
    default="127.0.0.1",
    show_default=True,
    help="Address that serves them; 0.0.0.0 for every network, which sees them without a password.",
)
@click.option("--record", type=click.Path(path_type=Path), help="Folder of a flight recorder (MCAP).")
@click.option(
    "--allow-unverified", is_flag=True, help="Issue certificates that the guarantee does not cover."
)
@click.option("--viewer", is_flag=True, help="Show frames in the Rerun viewer, a few a second.")
@click.option("--viewer-file", type=click.Path(path_type=Path), help="Write them to an .rrd file instead.")
@click.option(
    "--audit",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=_BUNDLED,
    metavar="[BASE]",
    help="Audit frames slowly with the bundle's base classifier, or with this ONNX file.",
)
@confirm_options
@click.option("--audit-rate", default=50.0, show_default=True, help="Its evaluations a second, at most.")
@click.option("--audit-interval", default=60.0, show_default=True, help="Seconds between audited frames.")
@click.option(
    "--base-record", type=click.Path(path_type=Path), help="base.safetensors that names the ONNX file."
)
@click.option("--accept-base", help="SHA-256 of a base classifier that is accepted without proof.")
@json_option
@runtime_options
@trust_options
@run_command
def watch(
    bundle: Path,
    source: str,
    topic: Optional[str],
    max_staleness: Optional[float],
    deadline: Optional[float],
    replay: bool,
    count: Optional[int],
    metrics_port: Optional[int],
    metrics_address: str,
    record: Optional[Path],
    allow_unverified: bool,
    viewer: bool,
    viewer_file: Optional[Path],
    audit: Optional[Path],
    audit_rate: float,
    audit_interval: float,
    confirm: Optional[float],
    confirm_level: float,
    base_record: Optional[Path],
    accept_base: Optional[str],
    json_flag: bool,
    **options: Any,
) -> None:
    """Certify SOURCE with BUNDLE and show it live: a camera number, a URI, a video, a folder, a bag or an MCAP file.

    Ctrl-C or SIGTERM ends it in order, with its summary.
    """
    from rrise.edge_sdk.auditing.base_classifier import BaseModel
    from rrise.edge_sdk.auditing.process import AuditProcess
    from rrise.edge_sdk.auditing.settings import AuditSettings
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.confirming.confirmation import Outcome
    from rrise.edge_sdk.operate.metrics import Metrics, MetricsServer
    from rrise.edge_sdk.operate.recorder import FlightRecorder
    from rrise.edge_sdk.operate.viewer import RerunViewer
    from rrise.edge_sdk.operate.watch import StatusLine
    from rrise.edge_sdk.stream.checks import CheckSettings
    from rrise.edge_sdk.stream.stream import StreamSettings

    checks = CheckSettings(dark=0, frozen_after=0) if replay else CheckSettings()
    settings = StreamSettings(max_staleness=max_staleness, deadline=deadline, checks=checks)
    view, metrics = StatusLine(), Metrics()
    with ExitStack() as stack:
        options["trust"] = trust_of(options)
        certifier = stack.enter_context(Certifier.load(bundle, allow_unverified=allow_unverified, **options))
        if (
            replay
        ):  # no evidence of what the camera sees now: the drift monitor, which no clone has, leaves it alone
            certifier = stack.enter_context(certifier.clone())
        metrics.watch(certifier)
        audits: Optional[AuditProcess] = None
        if audit is not None:
            base = (
                BaseModel.bundled(certifier.bundle)
                if audit == _BUNDLED
                else BaseModel.load(audit, certifier.bundle, record=base_record, accept=accept_base)
            )
            pace = AuditSettings(interval=audit_interval, rate=audit_rate)
            audits = stack.enter_context(AuditProcess(certifier, base, pace))
        recorder = None if record is None else stack.enter_context(FlightRecorder(record))
        shown: Optional[RerunViewer] = None
        if viewer or viewer_file is not None:
            encoding = certifier.bundle.manifest.input.encoding
            shown = stack.enter_context(RerunViewer(encoding, file=viewer_file))
        if metrics_port is not None:
            stack.enter_context(MetricsServer(metrics, metrics_port, metrics_address))
        asked = confirm_of(confirm, confirm_level)
        opened = int(source) if source.isdigit() else source
        stream = stack.enter_context(certifier.stream(opened, settings, topic=topic, confirm=asked))
        with stopped_by_signals():
            for number, (frame, certificate) in enumerate(stream, start=1):
                view.add(certificate, stream.counts.dropped)
                metrics.add(certificate)
                metrics.set_stream(stream.counts)
                if recorder is not None:
                    recorder.add(certificate)
                if shown is not None:
                    shown.add(frame, certificate)
                if audits is not None and frame is not None:
                    audits.offer(frame, certificate)
                if number == count:
                    break
        view.finish()
        if audits is not None and not stream.live:
            audits.finish()
    rows = [
        *view.rows(),
        ("dropped", str(stream.counts.dropped)),
        ("reconnects", str(stream.counts.reconnects)),
    ]
    if recorder is not None:
        rows.append(("recorder", recorder.problem or f"{recorder.dropped} certificates not recorded"))
    as_json: Dict[str, Any] = {
        "statuses": dict(view.statuses),
        "reasons": dict(view.reasons),
        "dropped": stream.counts.dropped,
    }
    if asked is not None:
        told = ", ".join(f"{stream.counts.confirmations.get(one.value, 0)} {one}" for one in Outcome)
        rows.append(("tests of inputs", f"{told}, {stream.counts.evaluations:,} evaluations"))
        as_json["confirmations"] = {
            **stream.counts.confirmations,
            "evaluations": stream.counts.evaluations,
            "alpha": asked.alpha,
        }
    if shown is not None:
        rows.append(("viewer", shown.problem or f"{shown.dropped} frames not shown for want of room"))
    if audits is not None:
        rows += audits.rows().items()
        as_json["audits"] = {**asdict(audits.counts), "problem": audits.problem, "base": audits.base.proof}
    summary(f"watched {source}", rows, as_json, json_flag)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Leave the block at Ctrl-C, and at SIGTERM too, which is how a service is stopped: what was seen is kept and told."""
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@click.command()
@json_option
@run_command
def doctor(json_flag: bool) -> None:
    """Say what this machine offers a certifier and what stands in its way; exit status 1 if something must be mended."""
    from rrise.edge_sdk.operate.doctor import Severity, examine

    findings = examine()
    rows = []
    for finding in findings:
        told = finding.text if finding.level is Severity.OK else f"{finding.level}: {finding.text}"
        rows.append((finding.name, f"{told} ({finding.advice})" if finding.advice else told))
    as_json = {"findings": [vars(finding) for finding in findings]}
    summary("this machine", rows, as_json, json_flag)
    problems = [finding for finding in findings if finding.level is Severity.PROBLEM]
    if problems:
        raise CheckFailed(
            "; ".join(f"{finding.name}: {finding.text}, {finding.advice}" for finding in problems)
        )
