"""Prometheus metrics: numbers, format, and the server."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest

from rrise.edge_sdk import Certificate, EdgeError, Status
from rrise.edge_sdk.operate.metrics import Metrics, MetricsServer
from rrise.edge_sdk.stream.stream import StreamCounts


def _certificate(radius, latency):
    status = Status.CERTIFIED if radius else Status.ABSTAINED
    return Certificate(status, 0, "a", radius, 0.0, 0.0, latency, None, "")


@pytest.fixture
def metrics():
    made = Metrics()
    for radius, latency in ((0.3, 0.0001), (0.0, 0.0002), (5.0, 0.7), (0.05, 2.0)):
        made.add(_certificate(radius, latency))
    made.set_stream(StreamCounts(received=9, dropped=3, reconnects=1))
    return made


def _value(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE).group(1))


def test_numbers(metrics):
    text = metrics.text()
    assert _value(text, 'rrise_certificates_total{status="certified"}') == 3
    assert _value(text, 'rrise_certificates_total{status="abstained"}') == 1
    assert _value(text, 'rrise_certificates_total{status="fault"}') == 0
    assert _value(text, 'rrise_latency_seconds_bucket{le="0.0001"}') == 1
    assert _value(text, 'rrise_latency_seconds_bucket{le="0.5"}') == 2
    assert _value(text, 'rrise_latency_seconds_bucket{le="1.0"}') == 3
    assert (
        _value(text, 'rrise_latency_seconds_bucket{le="+Inf"}')
        == 4
        == _value(text, "rrise_latency_seconds_count")
    )
    assert _value(text, "rrise_latency_seconds_sum") == pytest.approx(2.7003)
    assert _value(text, "rrise_radius_count") == 3 and _value(text, 'rrise_radius_bucket{le="2.0"}') == 2
    assert (
        _value(text, "rrise_stream_dropped_total") == 3 and _value(text, "rrise_stream_received_total") == 9
    )


def test_every_line_has_the_exposition_format(metrics):
    line = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[^"]*"\})? [0-9.e+-]+)')
    assert all(line.fullmatch(one) for one in metrics.text().splitlines())
    assert metrics.text().endswith("\n")


def test_the_official_client_reads_it(metrics):
    parser = pytest.importorskip("prometheus_client.parser")
    families = {family.name for family in parser.text_string_to_metric_families(metrics.text())}
    assert {"rrise_certificates", "rrise_latency_seconds", "rrise_radius"} <= families


def test_server(metrics):
    with MetricsServer(metrics, 0) as server:
        address = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
            assert (
                answer.read().decode() == metrics.text() and "version=0.0.4" in answer.headers["Content-Type"]
            )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/else", timeout=20)
        with pytest.raises(EdgeError, match="another port"):
            MetricsServer(metrics, server.port)
    with pytest.raises(EdgeError, match="another port"):
        MetricsServer(metrics, 70_000)


def test_state_suspension_bundle_and_classes(copied):
    from rrise.edge_sdk import Certifier
    from tests.edge_sdk import helpers

    made = Metrics()
    with Certifier.load(copied) as certifier:
        made.watch(certifier)
        certified = [certifier.certify(frame) for frame in helpers.random_frames(helpers.Spec(), 30)]
        for certificate in certified:
            made.add(certificate)
        text = made.text()
        for name in helpers.NAMES:
            expected = sum(bool(one) and one.name == name for one in certified)
            assert _value(text, f'rrise_certified_total{{name="{name}"}}') == expected
        assert _value(text, "rrise_withheld") == 0 == _value(text, "rrise_fault")
        assert _value(text, f'rrise_state{{state="{certifier.state.state.value}"}}') == 1
        assert (
            sum(float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith("rrise_state"))
            == 1
        )
        assert f'release="{certifier.bundle.manifest.digest}"' in text
        certifier.suspend("a test")
        assert _value(made.text(), "rrise_withheld") == 1
        parser = pytest.importorskip("prometheus_client.parser")
        families = {family.name for family in parser.text_string_to_metric_families(made.text())}
        assert {"rrise_bundle_info", "rrise_state", "rrise_withheld", "rrise_certified"} <= families


def test_class_names_are_escaped():
    made = Metrics()
    made.add(Certificate(Status.CERTIFIED, 0, 'a "b"\\\n', 0.5, 0.0, 0.0, 0.1, None, ""))
    assert 'rrise_certified_total{name="a \\"b\\"\\\\\\n"} 1' in made.text()
