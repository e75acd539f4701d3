"""Limits of the micro-batcher."""

from __future__ import annotations

from dataclasses import dataclass

# Batch shapes that are warmed up. Few, so that no request pays for the first call of a shape; equal shapes give equal
# bytes.
DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How samples of many requests become batches.

    Attributes:
        max_batch: most samples of one device call.
        window_s: longest wait for more samples, counted from the oldest waiting one; a lone request never waits. Up to
            two windows beside other calls, and `micro_batcher.BUSY_WAIT_S` while decoders keep the cores busy. With 0,
            nothing waits.
        buckets: batch shapes in use; a batch is padded up to one of them. Sizes over `max_batch` are ignored.
        max_queued_samples: most samples waiting; a chunk beyond that is refused with `queue_full`.
        max_queued_bytes: most bytes of chunks waiting; a chunk beyond that is refused with `queue_full`.
        job_patience_s: jobs yield to interactive requests for this long; after that they get an eighth of each batch.
        encode_threads: threads that turn logits into masks.
        parallel_calls: most calls of the predictor at the same time, on a CPU; other devices run one.
        device_timeout_s: a device call longer than this means that the device no longer answers; on slow devices a
            multiple of the measured time of a batch where that is longer (`BatchRunner.call_limit_s`).
    """

    max_batch: int = 16
    window_s: float = 0.005
    buckets: tuple[int, ...] = DEFAULT_BUCKETS
    max_queued_samples: int = 16_384
    max_queued_bytes: int = 1024**3
    job_patience_s: float = 1.0
    encode_threads: int = 2
    parallel_calls: int = 1
    device_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if min(self.max_batch, self.encode_threads, self.parallel_calls, self.max_queued_samples) < 1:
            raise ValueError(
                f"max_batch, encode_threads, parallel_calls and max_queued_samples must be at least 1, got {self}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the batch shapes in use in rising order; the last one is `max_batch`."""
        return (*(size for size in sorted(set(self.buckets)) if 0 < size < self.max_batch), self.max_batch)
