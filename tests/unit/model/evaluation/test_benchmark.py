"""Figures of speed: whose they are, and that they belong together. How large they are is no test's matter."""

from pathlib import Path

import pytest
import torch

from model.evaluation.benchmark import measure_speed, measure_variant_speed


def test_a_variant_with_random_weights_is_timed_as_a_checkpoint_is() -> None:
    threads = torch.get_num_threads()
    (shipped,) = measure_speed(Path("tiny"), device="cpu", batches=(1,), threads=1, seconds=0.0)
    (drawn,) = measure_variant_speed("tiny", device="cpu", batches=(2,), threads=1, seconds=0.0)
    torch.set_num_threads(threads)
    assert (shipped.variant, shipped.dtype, shipped.batch) == ("tiny", "float32", 1)
    assert (drawn.variant, drawn.dtype, drawn.batch) == ("tiny", "float32", 2)
    for speed in (shipped, drawn):
        assert speed.frames_per_s > 0
        assert speed.ratio_to_resnet50 > 0


def test_a_variant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"r51.*expected one of tiny, lite, r50"):
        next(measure_variant_speed("r51", device="cpu", batches=(1,), threads=None, seconds=0.0))
