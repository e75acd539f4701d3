"""What a lost connection leaves untold."""

from __future__ import annotations

from service.client.video.last_events import LastEvents
from service.domain.live import LiveMasks, LiveOptions
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent
from service.postprocess.events import EventTracker

OPTIONS = LiveOptions(event_min_s=0.0, event_gap_s=0.2)
MODEL = ModelInfo("fake", "sha256:0", ("dog", "car"), None, 8, 12)


def masks(time_s: float, *labels: str) -> LiveMasks:
    found = tuple(Mask(label, 0.9, 100, (0, 0, 9, 9), Rle((9, 9), "0")) for label in labels)
    return LiveMasks(FrameMasks(time_s, time_s, 0, found), 0.0, 0)


class Connection:
    """A server's messages, told up to a frame."""

    def __init__(self) -> None:
        self.last = LastEvents(OPTIONS)
        self.last.take(MODEL)
        self.server = EventTracker(OPTIONS, is_live=True)

    def send(self, frame: LiveMasks, *, with_events: bool = True) -> list[SoundEvent]:
        self.last.take(frame)
        closed = self.server.add(frame.masks)
        for event in closed if with_events else []:
            self.last.take(event)
        return closed


def test_an_open_event_is_closed_at_the_last_sample() -> None:
    connection = Connection()
    for number in range(5):
        connection.send(masks(0.1 * number, "dog"))
    [event] = connection.last.untold()
    assert (event.label, event.start_s, event.end_s) == ("dog", 0.0, 0.4)
    assert connection.last.untold() == []


def test_events_that_the_server_told_are_not_told_again() -> None:
    connection = Connection()
    for number in range(3):
        connection.send(masks(0.1 * number, "dog"))
    told = [event for number in range(3, 9) for event in connection.send(masks(0.1 * number, "car"))]
    assert [event.label for event in told] == ["dog"]
    assert [event.label for event in connection.last.untold()] == ["car"]


def test_an_event_whose_frame_arrived_and_itself_did_not_is_told() -> None:
    connection = Connection()
    for number in range(3):
        connection.send(masks(0.1 * number, "dog"))
    for number in range(3, 9):
        if connection.send(masks(0.1 * number), with_events=False):
            break
    assert [event.label for event in connection.last.untold()] == ["dog"]


def test_a_server_that_ends_the_stream_itself_tells_what_was_open() -> None:
    connection = Connection()
    for number in range(3):
        connection.send(masks(0.1 * number, "dog", "car"))
    for event in connection.server.finish():
        connection.last.take(event)
    assert connection.last.untold() == []


def test_a_connection_without_an_answer_leaves_nothing() -> None:
    assert LastEvents(OPTIONS).untold() == []
