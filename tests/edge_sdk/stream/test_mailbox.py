"""The mailbox: newest wins, drops are counted, loss is survived, errors reach the one who waits."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from rrise.edge_sdk import Captured, EdgeError
from rrise.edge_sdk.stream import mailbox as module
from rrise.edge_sdk.stream.captured import SourceLost
from rrise.edge_sdk.stream.mailbox import Mailbox


class Scripted:
    """A live source that delivers what is put into its queue: a frame, an exception, or None for the end."""

    live = True

    def __init__(self, *items, reopen_failures=0):
        self.items: queue.Queue[Any] = queue.Queue()
        self.closed = threading.Event()
        self.reopened = 0
        self._failures = reopen_failures
        for item in items:
            self.items.put(item)

    def read(self):
        item = self.items.get(timeout=20)
        if isinstance(item, Exception):
            raise item
        return item

    def reopen(self):
        self.reopened += 1
        if self.reopened <= self._failures:
            raise SourceLost("still away")

    def close(self):
        self.closed.set()


def _frame(number):
    return Captured(number, float(number), number)


def test_newest_frame_wins_and_drops_are_counted():
    mailbox = Mailbox(Scripted())
    for number in range(5):
        mailbox.put(_frame(number))
    assert mailbox.take(0).frame_id == 4
    assert (mailbox.received, mailbox.dropped) == (5, 4)
    assert mailbox.take(0) is None
    mailbox.put(_frame(5))
    assert mailbox.take(0).frame_id == 5 and mailbox.dropped == 4


def test_the_end_is_delivered_after_the_last_frame():
    source = Scripted(_frame(1), None)
    mailbox = Mailbox(source)
    mailbox.start()
    assert source.closed.wait(20)
    assert mailbox.take(20).frame_id == 1
    assert mailbox.ended and mailbox.take(20) is None


def test_a_lost_source_is_opened_again(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.0)
    source = Scripted(SourceLost("gone"), _frame(2), None, reopen_failures=3)
    mailbox = Mailbox(source)
    mailbox.start()
    assert mailbox.take(20).frame_id == 2
    assert source.reopened == 4 and mailbox.reconnects == 1


@pytest.mark.parametrize("error", [ValueError("broken driver"), EdgeError("OpenCV is gone")])
def test_other_errors_reach_the_reader(error):
    mailbox = Mailbox(Scripted(error))
    mailbox.start()
    with pytest.raises(EdgeError, match=str(error)):
        mailbox.take(20)
    assert mailbox.ended


def test_close_releases_the_source_started_or_not(monkeypatch):
    idle = Scripted()
    Mailbox(idle).close()
    assert idle.closed.is_set()
    waiting = Scripted(SourceLost("gone"), reopen_failures=10**9)
    mailbox = Mailbox(waiting)
    mailbox.start()
    mailbox.close()
    assert waiting.closed.is_set()
