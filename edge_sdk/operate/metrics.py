"""Counters of a running certifier in Prometheus' text format, without a client library."""

from __future__ import annotations

import threading
from bisect import bisect_left
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Dict, List, Optional

from rrise.edge_sdk.certificate import Certificate, Status
from rrise.edge_sdk.confirming.confirmation import Outcome
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.stream.stream import StreamCounts

if TYPE_CHECKING:
    from rrise.edge_sdk.certifier import Certifier

LATENCY_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
RADIUS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each bound, as Prometheus has them."""

    def __init__(self, name: str, help_text: str, bounds: "tuple[float, ...]") -> None:
        self.name, self.help_text, self.bounds = name, help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> List[str]:
        lines, running = [f"# HELP {self.name} {self.help_text}", f"# TYPE {self.name} histogram"], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts):
            running += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {running}')
        return [*lines, f"{self.name}_sum {self.total!r}", f"{self.name}_count {running}"]


class Metrics:
    """Feed it every certificate; `text` may be called from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: Dict[str, int] = {status.value: 0 for status in Status}
        self._latency = Histogram(
            "rrise_latency_seconds", "From entering certify to the answer.", LATENCY_BUCKETS
        )
        self._radius = Histogram("rrise_radius", "Certified radii, L2 in [0, 1] pixel units.", RADIUS_BUCKETS)
        self._outcomes: Dict[str, int] = {outcome.value: 0 for outcome in Outcome}
        self._evaluations = 0
        self._stream = {"received": 0, "dropped": 0, "reconnects": 0}
        self._certifier: Optional[Certifier] = None
        self._classes: Dict[str, int] = {}

    def watch(self, certifier: "Certifier") -> None:
        """Serve this certifier's state, suspension and bundle too, as they are whenever `text` is called."""
        with self._lock:
            self._certifier = certifier
            self._classes = dict.fromkeys(certifier.bundle.manifest.class_names, 0)

    def add(self, certificate: Certificate) -> None:
        """Count one certificate."""
        with self._lock:
            self._statuses[certificate.status.value] += 1
            self._latency.add(certificate.latency)
            if certificate.confirmation is not None:
                self._outcomes[certificate.confirmation.outcome.value] += 1
                self._evaluations += certificate.confirmation.new_samples
            if certificate:
                self._radius.add(certificate.radius)
                name = str(certificate.name)
                self._classes[name] = self._classes.get(name, 0) + 1

    def set_stream(self, counts: StreamCounts) -> None:
        """Take over what a stream has counted."""
        with self._lock:
            self._stream = {name: getattr(counts, name) for name in self._stream}

    def text(self) -> str:
        """All metrics in the text exposition format."""
        with self._lock:
            lines = [
                "# HELP rrise_certificates_total Certificates by status.",
                "# TYPE rrise_certificates_total counter",
            ]
            lines += [
                f'rrise_certificates_total{{status="{name}"}} {count}'
                for name, count in self._statuses.items()
            ]
            for name, count in self._stream.items():
                full = f"rrise_stream_{name}_total"
                lines += [
                    f"# HELP {full} Frames or events of the stream.",
                    f"# TYPE {full} counter",
                    f"{full} {count}",
                ]
            lines += [
                "# HELP rrise_confirmations_total Tests of single inputs by outcome.",
                "# TYPE rrise_confirmations_total counter",
            ]
            lines += [
                f'rrise_confirmations_total{{outcome="{name}"}} {count}'
                for name, count in self._outcomes.items()
            ]
            lines += [
                "# HELP rrise_confirm_evaluations_total Evaluations of the base classifier in them.",
                "# TYPE rrise_confirm_evaluations_total counter",
                f"rrise_confirm_evaluations_total {self._evaluations}",
            ]
            lines += [*self._latency.lines(), *self._radius.lines(), *self._class_lines()]
            if self._certifier is not None:
                lines += _certifier_lines(self._certifier)
            return "\n".join(lines) + "\n"

    def _class_lines(self) -> List[str]:
        head = [
            "# HELP rrise_certified_total Certified frames by class.",
            "# TYPE rrise_certified_total counter",
        ]
        rows = [f"rrise_certified_total{_labels(name=name)} {count}" for name, count in self._classes.items()]
        return head + rows if rows else []


def _certifier_lines(certifier: "Certifier") -> List[str]:
    """Gauges: is it suspended or out of use, how is its execution covered, and which release answers."""
    manifest, execution, state = certifier.bundle.manifest, certifier.execution, certifier.state.state
    info = _labels(
        release=manifest.digest,
        artefact=certifier.artefact,
        runtime=execution.runtime,
        version=execution.version,
        provider=execution.provider,
        signed="no" if certifier.bundle.signature is None else str(certifier.bundle.signature.release),
    )
    gauges = {
        "rrise_withheld": (
            "1 while certificates are withheld: suspended or unverified.",
            certifier.withheld != "",
        ),
        "rrise_fault": ("1 once the runtime failed; load the bundle again.", certifier.fault is not None),
    }
    lines: List[str] = []
    for name, (told, value) in gauges.items():
        lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge", f"{name} {int(value)}"]
    lines += ["# HELP rrise_state How this execution is covered.", "# TYPE rrise_state gauge"]
    lines += [f"rrise_state{_labels(state=str(one.value))} {int(one is state)}" for one in type(state)]
    lines += ["# HELP rrise_bundle_info Which release answers.", "# TYPE rrise_bundle_info gauge"]
    return [*lines, f"rrise_bundle_info{info} 1"]


def _labels(**values: str) -> str:
    """Labels in the exposition format, with what may stand in a class name escaped."""
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, value in values.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


class MetricsServer:
    """Serves `/metrics` from a thread; use it in a `with` block. Port 0 takes a free one, which `port` then names."""

    def __init__(self, metrics: Metrics, port: int, host: str = "127.0.0.1") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path in ("/", "/metrics")
                body = metrics.text().encode() if known else b"only /metrics is here\n"
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing: a scrape every few seconds is no event."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise EdgeError(
                f"metrics: cannot serve on {host}:{port} ({error}); choose another port"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="rrise-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "MetricsServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
