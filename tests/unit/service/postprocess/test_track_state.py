"""The state of an instance tracker: another tracker continues from it to the same frames; foreign bytes are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.inputs.discs import CYAN, SIDE_PX, YELLOW, Disc, crossing, frame_of, mask_of, picture, visible

from service.domain.result import FrameMasks
from service.domain.track_states import TrackStates
from service.postprocess.instances import InstanceTracker
from service.postprocess.track_state import decode_state, encode_state

STEP_S = 0.1
# Two discs that cross, two that turn back after they have met, and one that passes behind another.
SCENES = [
    *crossing(31),
    *crossing(31)[:17],
    *crossing(31)[16::-1],
    *([Disc(x, 32, YELLOW, radius=5), Disc(32, 32, CYAN, radius=14)] for x in np.linspace(6, 58, 27)),
]


def frame_and_picture(number: int) -> tuple[FrameMasks, np.ndarray]:
    discs = SCENES[number]
    labels = ("dog", "drum") if number % 9 == 4 else ("dog",)
    masks = [mask_of(np.any(visible(discs), axis=0), label=label) for label in labels]
    return frame_of(number * STEP_S, [] if number % 13 == 5 else masks), picture(discs)


def test_a_tracker_continues_from_the_state_after_any_frame() -> None:
    whole = InstanceTracker(step_s=STEP_S)
    frames, states = [], []
    for number in range(len(SCENES)):
        frames.append(whole.add(*frame_and_picture(number)))
        states.append(whole.state())
    assert len({mask.track_id for frame in frames for mask in frame.masks}) > 3
    for after in range(0, len(SCENES), 4):
        rest = InstanceTracker(step_s=STEP_S, state=states[after])
        assert rest.state() == states[after]
        given = frame_and_picture(after)
        assert rest.add(*given) == given[0], "it has had this frame"
        for number in range(after + 1, min(after + 12, len(SCENES))):
            assert rest.add(*frame_and_picture(number)) == frames[number], (after, number)
            assert rest.state() == states[number], (after, number)


def test_the_state_before_the_first_frame_is_that_of_a_new_tracker() -> None:
    state = InstanceTracker(step_s=STEP_S).state()
    tracker = InstanceTracker(step_s=STEP_S, state=state)
    assert tracker.add(*frame_and_picture(0)).masks[0].track_id == 1


def some_state() -> bytes:
    tracker = InstanceTracker(step_s=STEP_S)
    for number in range(3):
        tracker.add(*frame_and_picture(number))
    return tracker.state()


def changed(**changes: object) -> bytes:
    """A state whose first track has other members."""
    document = json.loads(some_state())
    document["labels"]["dog"][0] |= changes
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        some_state()[:-20],
        changed(colours="AAAA"),
        changed(colours="not base64!"),
        changed(silhouette=json.loads(some_state())["labels"]["dog"][0]["colours"]),
        changed(seen_s="now"),
    ],
)
def test_other_bytes_are_no_state(data: bytes) -> None:
    assert decode_state(data) is None
    tracker = InstanceTracker(step_s=STEP_S, state=data)
    assert tracker.add(*frame_and_picture(0)).masks[0].track_id == 1


def test_states_are_small() -> None:
    state = decode_state(some_state())
    assert state is not None
    assert encode_state(state) == some_state()
    assert len(some_state()) < 2 * (SIDE_PX * SIDE_PX // 8 + 4096)


def test_states_are_taken_up_to_a_time_and_bounded() -> None:
    states = TrackStates()
    for number in range(1000):
        states.keep(float(number), b"%d" % number)
    assert states.take_until(-1.0) is None
    assert states.take_until(999.0) == b"999"
    assert states.take_until(2000.0) is None
    for number in range(1000, 1010):
        states.keep(float(number), b"%d" % number)
    assert states.take_until(1004.5) == b"1004"
    assert states.take_until(1004.5) is None
    assert states.take_until(1006.0) == b"1006"
