"""Messages between the robot's program and its audit process: what is no message is refused, whatever its size."""

from __future__ import annotations

import io

import pytest

from rrise.edge_sdk.auditing.worker import receive, send


def test_a_message_comes_back() -> None:
    stream = io.BytesIO()
    send(stream, {"label": 3}, b"pixels")
    stream.seek(0)
    assert receive(stream) == ({"label": 3}, b"pixels")
    with pytest.raises(EOFError):
        receive(stream)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b"x" * (1 << 21), "more than 1,048,576 bytes"),
        (b'{"bytes": 99999999999}\n', "a message of 99999999999 bytes"),
        (b'{"bytes": -1}\n', "a message of -1 bytes"),
        (b'{"bytes": "5"}\n', "a message of '5' bytes"),
        (b"[1]\n", "a message of None bytes"),
        (b'{"bytes": 0, "x": NaN}\n', "NaN"),
    ],
)
def test_what_is_no_message_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        receive(io.BytesIO(line))
