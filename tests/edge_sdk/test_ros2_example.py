"""The logic of the ROS 2 node in examples/, without ROS: lifecycle, header, simulated time, bad images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from rrise.edge_sdk import Certifier, Status
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "06_ros2_node.py"


@pytest.fixture(scope="module")
def node():
    spec = importlib.util.spec_from_file_location("ros2_node_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _image(frame, seconds=100.0):
    stamp = SimpleNamespace(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
    header = SimpleNamespace(stamp=stamp, frame_id="front_camera")
    height, width, _ = frame.shape
    return SimpleNamespace(
        header=header, height=height, width=width, encoding="mono8", step=width, data=frame.tobytes()
    )


class _SimulatedClock:
    now = 100.05

    def __call__(self):
        return self.now


@pytest.fixture
def logic(node, hand_bundle):
    clock = _SimulatedClock()
    made = node.CertifierLogic(clock)
    assert made.configure(str(hand_bundle), 0.2, None) == ""
    made.clock = clock
    yield made
    made.cleanup()


FRAMES = helpers.random_frames(Spec(), 20)


def test_answers_only_while_active(logic, hand_bundle):
    assert logic.on_image(_image(FRAMES[0])) is None
    logic.active = True
    with Certifier.load(hand_bundle) as certifier:
        for frame in FRAMES:
            certificate = logic.on_image(_image(frame))
            assert certificate.radius == certifier.certify(frame).radius
            assert (certificate.capture_time, certificate.frame_id) == (100.0, "front_camera")
    logic.active = False
    assert logic.on_image(_image(FRAMES[0])) is None


def test_staleness_is_judged_on_the_nodes_clock(logic):
    logic.active = True
    logic.clock.now = 100.3
    assert logic.on_image(_image(FRAMES[0])).status is Status.STALE
    assert logic.on_image(_image(FRAMES[1], 100.25)).status is not Status.STALE


def test_a_message_that_contradicts_itself_is_answered(logic):
    logic.active = True
    broken = _image(FRAMES[0])
    broken.data = broken.data[:10]
    certificate = logic.on_image(broken)
    assert certificate.status is Status.INVALID_INPUT and "image message" in certificate.reason


def test_configuration_fails_with_the_reason(node, tmp_path, hand_bundle):
    logic = node.CertifierLogic(_SimulatedClock())
    assert "manifest.json" in logic.configure(str(tmp_path), None, None)
    assert "max_staleness" in logic.configure(str(hand_bundle), -1.0, None)
    logic.active = True
    assert logic.on_image(_image(FRAMES[0])) is None


def test_cleanup_closes_and_a_second_configuration_works(logic, hand_bundle):
    logic.active = True
    logic.cleanup()
    assert not logic.active
    assert logic.configure(str(hand_bundle), None, None) == ""
    logic.active = True
    assert logic.on_image(_image(FRAMES[0])) is not None


def test_the_typed_message_is_filled_in_full(node, logic):
    logic.active = True
    message = _image(FRAMES[0])
    certificate = logic.on_image(message)
    filled = node.fill(SimpleNamespace(), message.header, certificate)
    definition = (EXAMPLE.parent / "ros2" / "msg" / "Certificate.msg").read_text()
    fields = [line.split()[1] for line in definition.splitlines() if line and not line.startswith("#")]
    assert sorted(vars(filled)) == sorted(fields)
    assert filled.header is message.header and filled.label == certificate.label
    withheld = node.fill(SimpleNamespace(), message.header, logic.on_image(_image(FRAMES[0], 90.0)))
    assert (withheld.label, withheld.name, withheld.status, withheld.radius) == (-1, "", "stale", 0.0)
