"""Instances: which pixels, who is who, silence and occlusion, bounds."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.inputs.discs import CYAN, SIDE_PX, YELLOW, Disc, crossing, frame_of, mask_of, picture, pixels_of, visible

from service.domain.chunk import ProbabilityMap
from service.domain.result import FrameMasks
from service.postprocess.instances import InstanceTracker
from service.postprocess.label_tracks import MAX_TRACKS

STEP_S = 0.1


def followed(scenes: Sequence[Sequence[Disc]], *, silent: frozenset[int] = frozenset()) -> list[FrameMasks]:
    """The frames of scenes a step apart, one label; nothing has a mask in the `silent` ones."""
    tracker = InstanceTracker(step_s=STEP_S)
    frames = []
    for number, discs in enumerate(scenes):
        whole = np.any(visible(discs), axis=0) if discs else np.zeros((SIDE_PX, SIDE_PX), bool)
        masks = [mask_of(whole)] if whole.any() and number not in silent else []
        frames.append(tracker.add(frame_of(number * STEP_S, masks), picture(discs)))
    return frames


def owners(scenes: Sequence[Sequence[Disc]], frames: Sequence[FrameMasks]) -> list[list[int | None]]:
    """The track that has most of each disc's visible pixels, by frame; None where it has no mask."""
    found = []
    for discs, frame in zip(scenes, frames, strict=True):
        shares = [
            {mask.track_id: int((pixels_of(mask) & shown).sum()) for mask in frame.masks} for shown in visible(discs)
        ]
        found.append([max(share, key=lambda each: share[each]) if any(share.values()) else None for share in shares])
    return found


def test_objects_apart_are_two_tracks_and_keep_them_while_they_cross() -> None:
    scenes = crossing(31)
    frames = followed(scenes)
    assert {mask.track_id for frame in frames for mask in frame.masks} == {1, 2}
    assert len({tuple(each) for each in owners(scenes, frames)}) == 1
    assert all(mask.gap_s is None for frame in frames for mask in frame.masks)
    assert min(len(frame.masks) for frame in frames) == 2


def test_objects_that_meet_and_turn_back_keep_their_tracks() -> None:
    scenes = crossing(31)[:17]
    scenes += scenes[::-1]
    frames = followed(scenes)
    assert len({tuple(each) for each in owners(scenes, frames)}) == 1


def test_an_object_that_is_hidden_comes_back_as_itself_and_says_so() -> None:
    """A small disc passes behind a large one that stands still."""
    big = Disc(32, 32, CYAN, radius=14)
    scenes = [[Disc(x, 32, YELLOW, radius=5), big] for x in np.linspace(6, 58, 27)]
    frames = followed(scenes)
    assert {mask.track_id for frame in frames for mask in frame.masks} == {1, 2}
    seen = [[mask for mask in frame.masks if mask.track_id == owners(scenes, frames)[0][0]] for frame in frames]
    first_hidden = next(number for number, masks in enumerate(seen) if not masks)
    back = next(number for number in range(first_hidden, len(seen)) if seen[number])
    assert seen[back][0].gap_s == pytest.approx((back - first_hidden + 1) * STEP_S)
    assert owners(scenes, frames)[-1] == owners(scenes, frames)[0]


def test_tracks_survive_half_a_second_of_silence() -> None:
    scenes = crossing(31)
    silent = frozenset(range(8, 13))
    frames = followed(scenes, silent=silent)
    kept = [each for number, each in enumerate(owners(scenes, frames)) if number not in silent]
    assert len({tuple(each) for each in kept}) == 1
    gaps_s = {number: [mask.gap_s for mask in frame.masks] for number, frame in enumerate(frames)}
    assert gaps_s[13] == pytest.approx([0.6, 0.6])
    assert all(gap_s is None for number, each in gaps_s.items() if number != 13 for gap_s in each)


def crumbled(disc: Disc) -> np.ndarray:
    """Two corners of a disc, a fifth of its pixels together: what a model leaves of it when it is unsure."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    is_left = (columns < disc.x - disc.radius / 2) & (rows < disc.y)
    is_right = (columns > disc.x + disc.radius / 2) & (rows > disc.y)
    return disc.pixels() & (is_left | is_right)


@pytest.mark.parametrize(("num_crumbled", "tracks"), [(1, {1}), (4, {1}), (12, {1, 2})])
def test_a_mask_that_crumbles_for_a_moment_is_still_one_object(num_crumbled: int, tracks: set[int]) -> None:
    tracker = InstanceTracker(step_s=STEP_S)
    found = []
    for number in range(10 + num_crumbled):
        disc = Disc(26 + number / 2, 32, YELLOW, radius=14)
        is_crumbled = 5 <= number < 5 + num_crumbled
        pixels = crumbled(disc) if is_crumbled else disc.pixels()
        assert not is_crumbled or 0.15 < pixels.sum() / disc.pixels().sum() < 0.25
        frame = tracker.add(frame_of(number * STEP_S, [mask_of(pixels)]), picture([disc]))
        assert sum(mask.area for mask in frame.masks) == pixels.sum()
        found.append({mask.track_id for mask in frame.masks})
    assert set.union(*found) == tracks
    assert found[0] == found[-1] == {1} or num_crumbled == 12


def test_after_a_long_absence_an_object_is_a_new_one() -> None:
    scene = [Disc(20, 20, YELLOW)]
    frames = followed([scene] * 40, silent=frozenset(range(5, 30)))
    assert frames[0].masks[0].track_id == 1
    assert frames[-1].masks[0].track_id == 2


def test_labels_have_tracks_of_their_own() -> None:
    tracker = InstanceTracker()
    discs = [Disc(16, 32, YELLOW), Disc(48, 32, CYAN)]
    for number in range(3):
        masks = [mask_of(shown, label=label) for shown, label in zip(visible(discs), ("dog", "drum"), strict=True)]
        frame = tracker.add(frame_of(number * STEP_S, masks), picture(discs))
        assert [(mask.label, mask.track_id) for mask in frame.masks] == [("dog", 1), ("drum", 2)]


def test_scores_follow_the_map_and_their_mean_by_area_is_the_labels() -> None:
    discs = [Disc(16, 32, YELLOW), Disc(48, 32, CYAN)]
    values = np.full((16, 16), 250, np.uint8)
    values[:, :8] = 125
    given_map = ProbabilityMap((16, 16), base64.b64encode(values.tobytes()).decode())
    whole = mask_of(np.any(visible(discs), axis=0), score=0.75)
    left, right = InstanceTracker().add(frame_of(0, [whole]), picture(discs), [given_map]).masks
    assert left.bbox[0] < right.bbox[0]
    assert left.score == pytest.approx(right.score / 2, rel=0.02)
    assert (left.score * left.area + right.score * right.area) / whole.area == pytest.approx(0.75, abs=1e-5)


blobs = st.lists(
    st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(1, 16), st.sampled_from([YELLOW, CYAN, (250, 0, 0)])),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(blobs, min_size=1, max_size=6), st.sampled_from([(64, 64), (37, 90), (200, 120)]))
def test_masks_are_disjoint_and_together_the_labels_mask(
    scenes: list[list[tuple[int, int, int, tuple[int, int, int]]]], size: tuple[int, int]
) -> None:
    """Whatever the picture, the size of the answer and the history; and the same again gives the same bytes."""
    answers: list[list[FrameMasks]] = []
    wholes: list[np.ndarray | None] = []
    for _ in range(2):
        tracker, answer = InstanceTracker(step_s=STEP_S), []
        wholes.clear()
        for number, scene in enumerate(scenes):
            discs = [Disc(x, y, colour, radius) for x, y, radius, colour in scene]
            small = np.any([disc.pixels() for disc in discs], axis=0) if discs else np.zeros((SIDE_PX, SIDE_PX), bool)
            rows, columns = (np.arange(side) * SIDE_PX // side for side in size)
            whole = small[np.ix_(rows, columns)]
            wholes.append(whole if whole.any() else None)
            masks = [mask_of(whole)] if whole.any() else []
            answer.append(tracker.add(frame_of(number * STEP_S, masks), picture(discs)))
        answers.append(answer)
    assert answers[0] == answers[1]
    for frame, whole in zip(answers[0], wholes, strict=True):
        parts = [pixels_of(mask) for mask in frame.masks]
        assert bool(parts) == (whole is not None)
        if whole is not None:
            np.testing.assert_array_equal(np.sum(parts, axis=0), whole.astype(int))
            assert [mask.area for mask in frame.masks] == [part.sum() for part in parts]
        ids = [mask.track_id for mask in frame.masks]
        assert None not in ids
        assert ids == sorted(set(ids), key=ids.index)


def test_a_crowd_that_changes_in_every_frame_stays_bounded() -> None:
    """Sixty specks somewhere else in each of fifty frames: the ids go on, what is held does not grow."""
    rng = np.random.default_rng(0)
    tracker = InstanceTracker(step_s=STEP_S)
    for number in range(50):
        whole = np.zeros((SIDE_PX, SIDE_PX), bool)
        for x, y in rng.integers(0, SIDE_PX // 4, (60, 2)):
            whole[4 * y : 4 * y + 3, 4 * x : 4 * x + 3] = True
        shown = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
        frame = tracker.add(frame_of(number * STEP_S, [mask_of(whole)]), shown)
        assert sum(mask.area for mask in frame.masks) == whole.sum()
        assert tracker.num_tracks <= MAX_TRACKS
