"""Sources: folders, video files, iterables, bags and MCAP files, and what is none."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from rrise.calibration.errors import RecordingError
from rrise.calibration.recordings.bags import choose_topic
from rrise.edge_sdk import EdgeError
from rrise.edge_sdk.stream.bags import open_bag
from rrise.edge_sdk.stream.captured import Captured, SourceLost
from rrise.edge_sdk.stream.sources import IterableSource, OpenCvSource, open_frame_source

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
    items = _all(open_frame_source(tmp_path, encoding="bgr8"))
    assert [item.frame_id for item in items] == [str(tmp_path / f"{index}.png") for index in range(3)]
    assert (items[2].frame == PICTURES[2][:, :, ::-1]).all()
    assert items[1].frame is None and "cannot be read" in items[1].problem


def test_iterables_of_frames_and_of_captured():
    items = _all(open_frame_source(iter([PICTURES[0], Captured(PICTURES[1], 3.0, "x")]), encoding="rgb8"))
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
    assert open_frame_source(own, encoding="rgb8") is own


@pytest.mark.parametrize("source", [3.5, object(), None])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(EdgeError, match="expected a camera number"):
        open_frame_source(source, encoding="rgb8")


def test_missing_paths_and_cameras_are_refused(tmp_path):
    with pytest.raises(EdgeError, match="does not exist"):
        open_frame_source(tmp_path / "absent.mp4", encoding="rgb8")
    with pytest.raises(EdgeError, match="got no images"):
        open_frame_source(tmp_path, encoding="rgb8").read()
    pytest.importorskip("cv2")
    with pytest.raises(EdgeError, match="cannot be opened"):
        open_frame_source("rtsp://127.0.0.1:9/none", encoding="rgb8")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(EdgeError, match="cannot be opened"):
        open_frame_source(tmp_path / "broken.mp4", encoding="rgb8")


def test_a_video_file_is_a_recording_in_bgr(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"FFV1"), 10, (16, 16))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no lossless video codec")
    for picture in PICTURES:
        writer.write(picture[:, :, ::-1].copy())
    writer.release()
    source = open_frame_source(path, encoding="rgb8")
    items = _all(source)
    assert not source.live and len(items) == 3 and {item.encoding for item in items} == {"bgr8"}
    assert (items[1].frame[:, :, ::-1] == PICTURES[1]).all()
    assert items[2].capture_time - items[1].capture_time == pytest.approx(0.1, abs=0.02)


def _video(path, count=20):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (16, 16))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no video codec")
    for _ in range(count):
        writer.write(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("how", ["path", "upper case", "capture", "URI"])
def test_a_recording_is_one_however_it_is_named(tmp_path, how):
    """As a capture or by a URI it was a camera: frames were dropped, and the end was waited out for ever."""
    cv2 = pytest.importorskip("cv2")
    path = _video(tmp_path / ("a clip 100%.AVI" if how == "upper case" else "a clip 100%.avi"))
    given = {
        "path": path,
        "upper case": str(path),
        "capture": None,
        "URI": path.as_uri(),
    }[how]
    source = open_frame_source(cv2.VideoCapture(str(path)) if given is None else given, encoding="rgb8")
    assert not source.live and len(_all(source)) == 20


def test_uris_of_files(tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "A.PNG")
    (item,) = _all(open_frame_source(tmp_path.as_uri(), encoding="rgb8"))
    assert (item.frame == PICTURES[0]).all()
    with pytest.raises(EdgeError, match="on this machine"):
        open_frame_source("file://another/clip.mp4", encoding="rgb8")
    with pytest.raises(EdgeError, match="does not exist"):
        open_frame_source("file:///absent.mp4", encoding="rgb8")


def test_a_device_file_is_a_camera(monkeypatch, tmp_path):
    """/dev/v4l/by-id/... was taken for a folder of images."""
    cv2 = pytest.importorskip("cv2")
    link = tmp_path / "by-id"
    link.symlink_to("/dev/null")
    with pytest.raises(EdgeError, match="cannot be opened; check the cable"):
        open_frame_source(link, encoding="rgb8")
    opened = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda target: opened.append(target) or _Capture())
    monkeypatch.setattr(_Capture, "set", lambda *_: True, raising=False)
    assert open_frame_source(str(link), encoding="rgb8").live and opened == [str(link)]
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(EdgeError, match="neither a file"):
        open_frame_source(tmp_path / "pipe.mp4", encoding="rgb8")


def test_a_read_that_raises_is_a_lost_camera_and_the_end_of_a_recording():
    class Raising(_Capture):
        def read(self):
            raise RuntimeError("Unknown C++ exception from OpenCV code")

    with pytest.raises(SourceLost, match="Unknown C"):
        OpenCvSource(Raising()).read()
    with pytest.raises(EdgeError, match="cannot be read") as caught:
        OpenCvSource(Raising(), live=False).read()
    assert not isinstance(caught.value, SourceLost)


@pytest.mark.parametrize(
    ("shape", "encoding"),
    [
        ((9, 9), "mono8"),
        ((9, 9, 1), "mono8"),
        ((9, 9, 3), "bgr8"),
        ((9, 9, 4), "bgra8"),
        ((9, 9, 2), None),
        ((9,), None),
    ],
)
def test_what_a_capture_delivers_is_told_by_its_shape(shape, encoding):
    """A grey frame of a GRAY8 appsink was called bgr8."""
    capture = _Capture()
    capture.frames = [(True, np.zeros(shape, np.uint8))] * 2
    captured = OpenCvSource(capture).read()
    assert captured.encoding == encoding and bool(captured.problem) == (encoding is None)
    assert OpenCvSource(capture, encoding="yuv422").read().encoding == "yuv422"


def test_an_encoding_is_not_given_to_files_that_say_theirs(tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    with pytest.raises(EdgeError, match="say it themselves"):
        open_frame_source(tmp_path, encoding="rgb8", given="bgr8")


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
    source = open_frame_source(capture, encoding="rgb8")
    assert isinstance(source, OpenCvSource) and source.live
    assert [source.read().frame_id, source.read().frame_id] == [0, 1]
    with pytest.raises(SourceLost, match="no frame"):
        source.read()
    with pytest.raises(SourceLost, match="handed in"):
        source.reopen()
    source.close()
    assert capture.released and source.read() is None


def _image_message(store, picture, index, **more):
    types = store.types
    header = types["std_msgs/msg/Header"](
        **more, stamp=types["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=0), frame_id="camera"
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
    items = _all(open_frame_source(tmp_path / "bag", encoding="rgb8"))
    assert [item.capture_time for item in items] == [100.0, 101.0, 102.0]
    assert all((item.frame == picture).all() for item, picture in zip(items, PICTURES))
    assert items[0].frame_id == "camera" and items[0].encoding == "rgb8"


def test_a_topic_must_be_chosen_where_there_are_two(tmp_path):
    _ros2_bag(tmp_path / "bag", ("/left", "/right"))
    with pytest.raises(EdgeError, match=r"/left, /right"):
        _all(open_frame_source(tmp_path / "bag", encoding="rgb8"))
    assert len(_all(open_frame_source(tmp_path / "bag", encoding="rgb8", topic="/right"))) == 3
    with pytest.raises(RecordingError, match="none"):
        choose_topic([], None, tmp_path)


@pytest.mark.parametrize("name", ["a.bag", "A.BAG"])
def test_a_ros1_bag(tmp_path, name):
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    with rosbag1.Writer(tmp_path / name) as writer:
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
    (item,) = _all(open_frame_source(tmp_path / name, encoding="rgb8"))
    assert item.capture_time == 7.5 and (item.frame == PICTURES[0]).all() and item.encoding == "bgr8"


def _mcap(path, kind="sensor_msgs/msg/Image", schema_encoding="ros2msg", encoding="cdr", serialize=None):
    writer_module = pytest.importorskip("mcap.writer")
    typesys = pytest.importorskip("rosbags.typesys")
    ros1 = encoding == "ros1"
    store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC if ros1 else typesys.Stores.ROS2_HUMBLE)
    with open(path, "wb") as file:
        writer = writer_module.Writer(file)
        writer.start()
        schema = writer.register_schema(kind, schema_encoding, b"")
        channel = writer.register_channel("/camera", encoding, schema)
        for index, picture in enumerate(PICTURES):
            message = _image_message(store, picture, index, **({"seq": index} if ros1 else {}))
            name = "sensor_msgs/msg/Image"
            data = store.serialize_ros1(message, name) if ros1 else store.serialize_cdr(message, name)
            writer.add_message(channel, index, bytes(data), index)
        writer.finish()
    return path


@pytest.mark.parametrize("name", ["a.mcap", "A.MCAP"])
@pytest.mark.parametrize("ros", [1, 2])
def test_an_mcap_file(tmp_path, name, ros):
    how = {} if ros == 2 else {"kind": "sensor_msgs/Image", "schema_encoding": "ros1msg", "encoding": "ros1"}
    items = _all(open_frame_source(str(_mcap(tmp_path / name, **how)), encoding="rgb8"))
    assert len(items) == 3 and all((item.frame == picture).all() for item, picture in zip(items, PICTURES))
    assert items[1].capture_time == 101.0 and items[1].encoding == "rgb8"


def test_an_mcap_file_of_other_messages_says_what_it_holds(tmp_path):
    """ROS 1 and protobuf messages were "image topics: none"."""
    path = _mcap(tmp_path / "a.mcap", "foxglove.RawImage", "protobuf", "protobuf")
    with pytest.raises(
        EdgeError, match=r"none; it holds /camera \(foxglove\.RawImage, protobuf\).*cdr or ros1"
    ):
        _all(open_frame_source(path, encoding="rgb8"))


def test_an_mcap_file_that_was_cut_off(tmp_path):
    whole = _mcap(tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdgeError, match=r"MCAP file .*(cut off|cannot be read)"):
        _all(open_frame_source(tmp_path / "a.mcap", encoding="rgb8"))


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3"])
def test_damaged_bags_are_refused(tmp_path, name):
    pytest.importorskip("rosbags")
    (tmp_path / name).write_bytes(b"no bag")
    with pytest.raises(EdgeError, match="cannot be read"):
        list(open_bag(tmp_path / name, None))
