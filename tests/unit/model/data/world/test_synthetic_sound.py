"""The synthetic world's sound: gates, the truth rule, levels, and that kinds can be told apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.world.mix import (
    BLOCK_SAMPLES,
    WINDOW_SAMPLES,
    audible_states,
    draw_room,
    gate_curve,
    is_near_edge,
    mix_scene,
    render_stems,
    reverberate,
    window_at,
)
from model.data.world.scene import KINDS, MIN_GATE_S, Scene, SceneOptions, Source, draw_gates, draw_scene, stream
from model.data.world.sounds import PEAK, emit
from model.data.world.voice import Noise, stretch
from model.network.preprocess import SAMPLE_RATE_HZ

CPU = torch.device("cpu")
SECONDS = 3.0
NUM_SAMPLES = int(SECONDS * SAMPLE_RATE_HZ)


def _emission(kind: int, seed: int) -> torch.Tensor:
    return emit(seed, kind, seconds=SECONDS, span=(0, NUM_SAMPLES), device=CPU)


def test_gates_are_long_and_pauses_are_pauses() -> None:
    rng = stream(1, 0)
    counts = []
    for _ in range(300):
        gates = draw_gates(rng, seconds=8.0, is_eager=False)
        counts.append(len(gates))
        assert ((gates >= 0) & (gates <= 8.0)).all()
        assert (gates[:, 1] - gates[:, 0] >= MIN_GATE_S - 1e-9).all()
        assert (gates[1:, 0] - gates[:-1, 1] > 0.25).all()
    assert min(counts) == 0
    assert max(counts) >= 3


def test_gate_curve_is_zero_outside_and_one_inside() -> None:
    curve = gate_curve(np.array([[0.5, 1.0]]), num_samples=NUM_SAMPLES, device=CPU)
    assert curve[:8000].max() == 0
    assert curve[8300:15999].min() == 1
    assert curve[16_600:].max() == 0


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_emissions_have_unit_power_no_long_gap_and_survive_telephony(kind: int) -> None:
    for seed in range(4):
        wave = _emission(kind, seed)
        assert torch.equal(wave, _emission(kind, seed))
        power = float(wave.square().mean())
        assert 0.4 < power < 2.0
        assert float(wave.abs().max()) <= PEAK
        blocks = wave.view(-1, BLOCK_SAMPLES).square().mean(dim=1)
        quarter_second = torch.nn.functional.max_pool1d(blocks[None], 13, 1)
        assert float(quarter_second.min()) > 0.05 * power
        spectrum = torch.fft.rfft(wave).abs().square()
        frequency = torch.fft.rfftfreq(NUM_SAMPLES, 1 / SAMPLE_RATE_HZ)
        assert float(spectrum[frequency < 3700].sum() / spectrum.sum()) > 0.75


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_part_of_an_emission_equals_that_part_of_the_whole(kind: int) -> None:
    part = emit(5, kind, seconds=SECONDS, span=(12_345, 40_001), device=CPU)
    torch.testing.assert_close(part, _emission(kind, 5)[12_345:40_001], atol=1e-4, rtol=0)


def test_kinds_can_be_told_apart_by_a_nearest_neighbour_on_plain_statistics() -> None:
    """Log band energies with their spread over time: 8 clips known, 4 asked, far above 1 in 14."""
    known = {kind: torch.stack([_statistics(kind, seed) for seed in range(8)]) for kind in range(len(KINDS))}
    flat = torch.cat(list(known.values()))
    scale = flat.std(dim=0) + 1e-6
    hits = []
    for kind in range(len(KINDS)):
        for seed in range(100, 104):
            distance = ((flat - _statistics(kind, seed)) / scale).square().sum(dim=1)
            hits.append(int(distance.argmin()) // 8 == kind)
    assert np.mean(hits) > 0.85


def _statistics(kind: int, seed: int) -> torch.Tensor:
    window = torch.hann_window(512)
    power = torch.stft(_emission(kind, seed), 512, 160, window=window, return_complex=True).abs().square()
    bands = torch.stack([power[low : 2 * low].mean(dim=0) for low in (4, 8, 16, 32, 64)])
    log = torch.log(bands + 1e-3)
    return torch.cat([log.mean(dim=1), log.std(dim=1), log.diff(dim=1).abs().mean(dim=1)])


def _scene_with(sources: tuple[Source, ...]) -> Scene:
    return replace(draw_scene(0, SceneOptions(seconds=SECONDS)), sources=sources)


def _source(name: str, gates: list[list[float]]) -> Source:
    return Source(name=name, kind=0, slot=0, gates=np.array(gates).reshape(-1, 2), level_db=0.0)


def test_truth_needs_an_open_gate_and_minus_12_db() -> None:
    num_blocks = NUM_SAMPLES // BLOCK_SAMPLES
    scene = _scene_with((_source("a", [[0.0, 3.0]]), _source("b", [[1.0, 2.0]]), _source("c", [])))
    for quiet_db, is_heard in ((-11.5, True), (-12.5, False)):
        powers = np.zeros((3, num_blocks))
        powers[0] = 10 ** (quiet_db / 10)
        powers[1, 50:100] = 1.0
        states = audible_states(scene, powers, ambience_powers=np.full(num_blocks, 1e-9))
        assert states[0, 80] == is_heard
        assert states[0, 20]
        assert states[1, 50:100].all()
        assert not states[1, :50].any()
        assert not states[1, 100:].any()
        assert not states[2].any()


def test_pauses_within_an_event_still_sound() -> None:
    num_blocks = NUM_SAMPLES // BLOCK_SAMPLES
    scene = _scene_with((_source("a", [[0.0, 3.0]]),))
    powers = np.ones((1, num_blocks))
    powers[0, 60:72] = 0.0  # 0.24 s
    states = audible_states(scene, powers, ambience_powers=np.full(num_blocks, 1e-3))
    assert states.all()


def test_edges_are_ambiguous_and_the_middle_of_a_gate_is_not() -> None:
    for seed in range(40):
        scene = draw_scene(seed, SceneOptions())
        mix = mix_scene(scene, device=CPU)
        for source in scene.sources:
            for start, stop in source.gates:
                assert is_near_edge(scene, mix, time_s=start + 0.15)
                assert stop >= scene.seconds or is_near_edge(scene, mix, time_s=stop - 0.15)
    lone = next(s for s in map(_lone_scene, range(200)) if s is not None)
    middle = float(lone.sources[0].gates[0].mean())
    assert not is_near_edge(lone, mix_scene(lone, device=CPU), time_s=middle)


def _lone_scene(seed: int) -> Scene | None:
    scene = draw_scene(seed, SceneOptions(visible=(1, 1)))
    is_lone = len(scene.sources) == 1 and len(scene.sources[0].gates) == 1
    return scene if is_lone and np.ptp(scene.sources[0].gates) > 1.0 else None


def test_a_source_is_heard_where_the_truth_says_so() -> None:
    """Power over the ambience inside the open gates is far above that outside, for clips with one source."""
    heard = 0
    for seed in range(60):
        scene = draw_scene(seed, SceneOptions(visible=(1, 1)))
        mix = mix_scene(scene, device=CPU)
        is_on = mix.states.any(axis=0)
        if len(scene.sources) != 1 or is_on.mean() < 0.2 or is_on.mean() > 0.8:
            continue
        sources = mix.waveform - render_stems(scene, mix, device=CPU)["ambience"]
        blocks = sources.view(-1, BLOCK_SAMPLES).square().mean(dim=1).numpy()
        assert blocks[is_on].mean() > 10 * blocks[~is_on].mean()
        heard += 1
    assert heard >= 5


def test_stems_gated_and_added_give_the_mix() -> None:
    scene = draw_scene(11, SceneOptions(visible=(3, 3)))
    mix = mix_scene(scene, device=CPU)
    stems = render_stems(scene, mix, device=CPU)
    assert set(stems) == {source.name for source in scene.sources} | {"ambience"}
    assert all(float(stem.abs().max()) <= 1.0 for stem in stems.values())
    total = stems["ambience"].clone()
    for source in scene.sources:
        curve = gate_curve(source.gates, num_samples=len(total), device=CPU)
        total += stems[source.name] * curve
    residue = (total - mix.waveform).square().mean() / mix.waveform.square().mean()
    assert float(residue) < 0.05


def test_levels_stay_within_full_scale_and_some_rooms_are_silent() -> None:
    rooms = [draw_room(stream(seed, 6)) for seed in range(200)]
    assert any(room.ambience_level == 0 for room in rooms)
    assert any(len(room.delays) == 0 for room in rooms)
    for seed in range(10):
        assert mix_scene(draw_scene(seed, SceneOptions()), device=CPU).waveform.abs().max() <= 0.951


def test_reverb_keeps_the_direct_sound_first() -> None:
    room = next(room for room in (draw_room(stream(seed, 6)) for seed in range(20)) if len(room.delays))
    click = torch.zeros(8000)
    click[100] = 1.0
    wet = reverberate(click, room)
    assert wet[:100].abs().max() == 0
    assert wet[100] == 1.0
    assert 0.005 < float(wet[101:].square().sum()) < 0.3


def test_window_ends_at_its_time_and_starts_with_silence_before_the_clip() -> None:
    waveform = torch.arange(1.0, NUM_SAMPLES + 1)
    late = window_at(waveform, time_s=2.0)
    assert late.shape == (WINDOW_SAMPLES,)
    assert late[-1] == 32_000
    assert late[0] == 32_000 - WINDOW_SAMPLES + 1
    early = window_at(waveform, time_s=0.5)
    assert early[: WINDOW_SAMPLES - 8000].max() == 0
    assert early[WINDOW_SAMPLES - 8000] == 1
    past = window_at(waveform, time_s=99.0)
    assert past[-1] == NUM_SAMPLES


def test_noise_is_interpolated_between_its_points() -> None:
    noise = Noise(points=np.array([0.0, 4.0, 0.0, 4.0, 0.0], np.float32), step=4)
    expected = torch.tensor([2.0, 3.0, 4.0, 3.0, 2.0, 1.0, 0.0, 1.0])
    assert torch.equal(stretch(noise, span=(2, 10), device=CPU), expected)
