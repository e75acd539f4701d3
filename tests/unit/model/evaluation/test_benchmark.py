"""Figures of speed: whose they are, and that they belong together. How large they are is no test's matter."""

from pathlib import Path

import pytest
import torch

from model.evaluation.benchmark import cpu_s_per_sample, measure_speed, measure_variant_speed, multiplies_in_bfloat16


def test_a_variant_with_random_weights_is_timed_as_a_checkpoint_is() -> None:
    threads = torch.get_num_threads()
    shipped, *more = measure_speed(Path("tiny"), device="cpu", batches=(1,), threads=1, seconds=0.0)
    drawn, *_ = measure_variant_speed("tiny", device="cpu", batches=(2,), threads=1, seconds=0.0)
    torch.set_num_threads(threads)
    assert (shipped.variant, shipped.dtype, shipped.batch) == ("tiny", "float32", 1)
    assert (drawn.variant, drawn.dtype, drawn.batch) == ("tiny", "float32", 2)
    assert [speed.dtype for speed in more] == (["bfloat16"] if multiplies_in_bfloat16(Path("/proc/cpuinfo")) else [])
    for speed in (shipped, drawn, *more):
        assert speed.frames_per_s > 0
        assert speed.ratio_to_resnet50 > 0


def test_a_variant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"r51.*expected one of tiny, lite, r50"):
        next(measure_variant_speed("r51", device="cpu", batches=(1,), threads=None, seconds=0.0))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu sse2 avx512f amx_bf16 amx_tile", True),
        ("flags : fpu avx512_bf16", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu sse2 avx2 avx512f", False),
    ],
)
def test_bfloat16_is_timed_on_cpus_that_multiply_in_it(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert multiplies_in_bfloat16(tmp_path / "cpuinfo") is expected
    assert not multiplies_in_bfloat16(tmp_path / "none")


def test_cpu_time_of_a_sample_counts_the_calls_threads() -> None:
    threads = torch.get_num_threads()
    spent_s = cpu_s_per_sample(Path("tiny"), device="cpu", dtype="float32", threads=1, batch=2, seconds=0.0)
    torch.set_num_threads(threads)
    assert 0 < spent_s < 60
