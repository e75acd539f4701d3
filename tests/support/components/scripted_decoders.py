"""A decoder pool for tests of what lies above it: the upload itself is a script that says how it "decodes"."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass

from support.components.chunks import make_block

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.decoders.pool import Lend
from service.media.policy import DecodeRequest
from service.media.upload import Upload


@dataclass(frozen=True)
class Script:
    """How an upload decodes.

    Attributes:
        num_samples: samples it holds.
        seed: what they show.
        block: samples a block.
        error: code raised after `error_after` samples (0: already at opening).
        hangs_after: samples after which decoding stands still for good (-1: never).
        num_samples_known: whether the clip's facts tell the number of samples.
        padding: text that makes the upload bigger.
    """

    num_samples: int = 3
    seed: int = 0
    block: int = 4
    error: str = ""
    error_after: int = 0
    hangs_after: int = -1
    num_samples_known: bool = True
    padding: str = ""

    def encode(self) -> bytes:
        """The upload's bytes."""
        return json.dumps(asdict(self)).encode()


class ScriptedReader:
    waited_s = 0.0

    def __init__(self, script: Script, request: DecodeRequest) -> None:
        self._script = script
        self._size_px = request.frame_height
        known = script.num_samples if script.num_samples_known else None
        self.clip = ClipInfo(96, 80, "1:1", script.num_samples / 10, 10.0, known)

    async def blocks(self) -> AsyncIterator[SampleBlock]:
        script = self._script
        for start in range(0, script.num_samples, script.block):
            if script.error and start >= script.error_after:
                raise ServiceError(script.error, "as the script says")
            if 0 <= script.hangs_after <= start:
                await asyncio.Event().wait()
            num = min(script.block, script.num_samples - start)
            block = make_block(num, seed=script.seed + start, size_px=self._size_px)
            block.sample_times_s[:] += start / 10
            block.timestamps_s[:] += start / 10
            block.indexes[:] += start
            yield block
            await asyncio.sleep(0)


class ScriptedDecoders:
    """Stands in for DecoderPool; counts what is open."""

    def __init__(self) -> None:
        self.num_open = 0
        self.num_opened = 0
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def open(
        self, upload: Upload, request: DecodeRequest, *, deadline: Deadline, lend: Lend = nullcontext
    ) -> AsyncIterator[ScriptedReader]:
        text = os.pread(upload.fd, upload.size, 0)
        try:
            script = Script(**json.loads(text))
        except ValueError:
            raise ServiceError("not_mp4", "not a script") from None
        if script.error and not script.error_after:
            raise ServiceError(script.error, "as the script says")
        self.num_open += 1
        self.num_opened += 1
        self.changed.set()
        try:
            yield ScriptedReader(script, request)
        finally:
            self.num_open -= 1
            self.changed.set()

    def is_healthy(self) -> bool:
        return True

    def features(self) -> dict[str, object]:
        return {"decoder": "scripted"}
