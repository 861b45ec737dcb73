"""Sources: folders, video files, iterables, bags and MCAP files, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rrise.edge_sdk import EdgeError
from rrise.edge_sdk.stream.bags import choose_topic, open_bag
from rrise.edge_sdk.stream.captured import Captured, SourceLost
from rrise.edge_sdk.stream.sources import IterableSource, OpenCvSource, open_source

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def _all(source):
    items = []
    while (item := source.read()) is not None:
        items.append(item)
    source.close()
    return items


def test_a_folder_in_order_with_an_unreadable_file(tmp_path):
    for index, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"torn")
    items = _all(open_source(tmp_path, encoding="bgr8"))
    assert [item.frame_id for item in items] == [str(tmp_path / f"{index}.png") for index in range(3)]
    assert (items[2].frame == PICTURES[2][:, :, ::-1]).all()
    assert items[1].frame is None and "cannot be read" in items[1].problem


def test_iterables_of_frames_and_of_captured():
    items = _all(open_source(iter([PICTURES[0], Captured(PICTURES[1], 3.0, "x")]), encoding="rgb8"))
    assert [item.frame_id for item in items] == [0, "x"] and items[1].capture_time == 3.0
    with pytest.raises(SourceLost):
        IterableSource([]).reopen()


def test_a_source_is_passed_through():
    class Own:
        live = True

        def read(self):
            return None

        reopen = close = read

    own = Own()
    assert open_source(own, encoding="rgb8") is own


@pytest.mark.parametrize("source", [3.5, object(), None])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(EdgeError, match="expected a camera number"):
        open_source(source, encoding="rgb8")


def test_missing_paths_and_cameras_are_refused(tmp_path):
    with pytest.raises(EdgeError, match="does not exist"):
        open_source(tmp_path / "absent.mp4", encoding="rgb8")
    with pytest.raises(EdgeError, match="got no images"):
        open_source(tmp_path, encoding="rgb8").read()
    pytest.importorskip("cv2")
    with pytest.raises(EdgeError, match="cannot be opened"):
        open_source("rtsp://127.0.0.1:9/none", encoding="rgb8")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(EdgeError, match="cannot be opened"):
        open_source(tmp_path / "broken.mp4", encoding="rgb8")


def test_a_video_file_is_a_recording_in_bgr(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"FFV1"), 10, (16, 16))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no lossless video codec")
    for picture in PICTURES:
        writer.write(picture[:, :, ::-1].copy())
    writer.release()
    source = open_source(path, encoding="rgb8")
    items = _all(source)
    assert not source.live and len(items) == 3 and {item.encoding for item in items} == {"bgr8"}
    assert (items[1].frame[:, :, ::-1] == PICTURES[1]).all()
    assert items[2].capture_time - items[1].capture_time == pytest.approx(0.1, abs=0.02)


class _Capture:
    """An OpenCV capture that loses its camera after two frames."""

    def __init__(self):
        self.frames = [(True, PICTURES[0]), (True, PICTURES[1]), (False, None)]
        self.released = False

    def isOpened(self):
        return True

    def read(self):
        return self.frames.pop(0)

    def release(self):
        self.released = True


def test_a_capture_object_is_live_and_its_loss_is_reported():
    capture = _Capture()
    source = open_source(capture, encoding="rgb8")
    assert isinstance(source, OpenCvSource) and source.live
    assert [source.read().frame_id, source.read().frame_id] == [0, 1]
    with pytest.raises(SourceLost, match="no frame"):
        source.read()
    with pytest.raises(SourceLost, match="handed in"):
        source.reopen()
    source.close()
    assert capture.released and source.read() is None


def _image_message(store, picture, index):
    types = store.types
    header = types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=0), frame_id="camera"
    )
    return types["sensor_msgs/msg/Image"](
        header=header, height=16, width=16, encoding="rgb8", is_bigendian=0, step=48, data=picture.ravel()
    )


def _ros2_bag(path, topics=("/camera",)):
    rosbags = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    with rosbags.Writer(path, version=9) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=store)
            for index, picture in enumerate(PICTURES):
                data = store.serialize_cdr(_image_message(store, picture, index), "sensor_msgs/msg/Image")
                writer.write(connection, (100 + index) * 10**9, data)


def test_a_ros2_bag(tmp_path):
    _ros2_bag(tmp_path / "bag")
    items = _all(open_source(tmp_path / "bag", encoding="rgb8"))
    assert [item.capture_time for item in items] == [100.0, 101.0, 102.0]
    assert all((item.frame == picture).all() for item, picture in zip(items, PICTURES))
    assert items[0].frame_id == "camera" and items[0].encoding == "rgb8"


def test_a_topic_must_be_chosen_where_there_are_two(tmp_path):
    _ros2_bag(tmp_path / "bag", ("/left", "/right"))
    with pytest.raises(EdgeError, match=r"/left, /right"):
        _all(open_source(tmp_path / "bag", encoding="rgb8"))
    assert len(_all(open_source(tmp_path / "bag", encoding="rgb8", topic="/right"))) == 3
    with pytest.raises(EdgeError, match="none"):
        choose_topic([], None, tmp_path)


def test_a_ros1_bag(tmp_path):
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    with rosbag1.Writer(tmp_path / "a.bag") as writer:
        connection = writer.add_connection("/camera", "sensor_msgs/msg/Image", typestore=store)
        stamp = types["builtin_interfaces/msg/Time"](sec=7, nanosec=500_000_000)
        header = types["std_msgs/msg/Header"](seq=1, stamp=stamp, frame_id="camera")
        message = types["sensor_msgs/msg/Image"](
            header=header,
            height=16,
            width=16,
            encoding="bgr8",
            is_bigendian=0,
            step=48,
            data=PICTURES[0].ravel(),
        )
        writer.write(connection, 1, store.serialize_ros1(message, "sensor_msgs/msg/Image"))
    (item,) = _all(open_source(tmp_path / "a.bag", encoding="rgb8"))
    assert item.capture_time == 7.5 and (item.frame == PICTURES[0]).all() and item.encoding == "bgr8"


def test_an_mcap_file(tmp_path):
    writer_module = pytest.importorskip("mcap.writer")
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    with open(tmp_path / "a.mcap", "wb") as file:
        writer = writer_module.Writer(file)
        writer.start()
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channel = writer.register_channel("/camera", "cdr", schema)
        for index, picture in enumerate(PICTURES):
            data = bytes(store.serialize_cdr(_image_message(store, picture, index), "sensor_msgs/msg/Image"))
            writer.add_message(channel, index, data, index)
        writer.finish()
    items = _all(open_source(str(tmp_path / "a.mcap"), encoding="rgb8"))
    assert len(items) == 3 and (items[2].frame == PICTURES[2]).all()


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3"])
def test_damaged_bags_are_refused(tmp_path, name):
    pytest.importorskip("rosbags")
    (tmp_path / name).write_bytes(b"no bag")
    with pytest.raises(EdgeError, match="cannot be read"):
        list(open_bag(tmp_path / name, None))
