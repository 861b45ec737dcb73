"""A ROS 2 lifecycle node: images in, certificates out.

ros2 run ... or: python examples/06_ros2_node.py --ros-args -p bundle:=/path/to/bundle -p max_staleness:=0.2

`CertifierLogic` is everything that the node does and knows nothing of ROS, so it is tested without it. The typed message
is ros2/msg/Certificate.msg; build it in a package called rrise_msgs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rrise.edge_sdk import Certificate, Certifier, EdgeError, StreamSettings
from rrise.edge_sdk.stream.ros import from_image
from rrise.edge_sdk.stream.stream import Stream


class Pushed:
    """A source whose frames are pushed by callbacks; nothing is read from it."""

    live = False

    def read(self) -> None:
        return None

    reopen = close = read


class CertifierLogic:
    """configure, activate, an answer for every image while active, deactivate, cleanup."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stream: Stream | None = None
        self._certifier: Certifier | None = None
        self.active = False

    def configure(self, bundle: str, max_staleness: float | None, deadline: float | None) -> str:
        """Load the bundle; what stands in the way, or an empty text."""
        self.cleanup()
        try:
            settings = StreamSettings(max_staleness, deadline, clock=self._clock)
            self._certifier = Certifier.load(bundle)
        except EdgeError as error:
            return str(error)
        self._stream = Stream(self._certifier, Pushed(), settings)
        return ""

    def on_image(self, message: Any) -> Certificate | None:
        """The certificate of one image message, or None while the node is not active."""
        if not self.active or self._stream is None:
            return None
        return self._stream.answer(from_image(message)).certificate

    def cleanup(self) -> None:
        self.active = False
        if self._certifier is not None:
            self._certifier.close()
        self._certifier = self._stream = None


def fill(target: Any, header: Any, certificate: Certificate) -> Any:
    """Fill a Certificate message; the image's header is passed on as it is."""
    target.header = header
    target.status = certificate.status.value
    target.label = -1 if certificate.label is None else certificate.label
    target.name = certificate.name or ""
    target.radius = certificate.radius
    target.frame_radius = certificate.frame_radius
    target.latency = certificate.latency
    target.reason = certificate.reason
    return target


def main() -> None:
    """The node. It needs rclpy, sensor_msgs and rrise_msgs, and honours use_sim_time like every ROS 2 node."""
    import rclpy
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
    from rclpy.qos import qos_profile_sensor_data
    from rrise_msgs.msg import Certificate as Message
    from sensor_msgs.msg import Image

    class CertifierNode(LifecycleNode):
        def __init__(self) -> None:
            super().__init__("rrise_certifier")
            self.declare_parameter("bundle", "")
            self.declare_parameter("max_staleness", 0.0)
            self.declare_parameter("deadline", 0.0)
            # The node's clock, so that staleness is judged in simulated time where use_sim_time is set.
            self._logic = CertifierLogic(lambda: self.get_clock().now().nanoseconds * 1e-9)

        def _number(self, name: str) -> float | None:
            return self.get_parameter(name).value or None

        def on_configure(self, state: Any) -> TransitionCallbackReturn:
            bundle = self.get_parameter("bundle").value
            problem = self._logic.configure(bundle, self._number("max_staleness"), self._number("deadline"))
            if problem:
                self.get_logger().error(problem)
                return TransitionCallbackReturn.FAILURE
            self._publisher = self.create_lifecycle_publisher(Message, "certificate", qos_profile_sensor_data)
            self._subscription = self.create_subscription(
                Image, "image", self._on_image, qos_profile_sensor_data
            )
            return TransitionCallbackReturn.SUCCESS

        def on_activate(self, state: Any) -> TransitionCallbackReturn:
            self._logic.active = True
            return super().on_activate(state)

        def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
            self._logic.active = False
            return super().on_deactivate(state)

        def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
            self.destroy_subscription(self._subscription)
            self.destroy_lifecycle_publisher(self._publisher)
            self._logic.cleanup()
            return TransitionCallbackReturn.SUCCESS

        def _on_image(self, message: Image) -> None:
            certificate = self._logic.on_image(message)
            if certificate is not None:
                self._publisher.publish(fill(Message(), message.header, certificate))

    rclpy.init(args=sys.argv)
    try:
        rclpy.spin(CertifierNode())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
