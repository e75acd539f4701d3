"""Single pictures of live streams, decoded in one jailed child per stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from service.aio.waits import bounded_wait
from service.domain.errors import ServiceError
from service.media import framing
from service.media.decoders.child_channel import Channel, ChildGoneError
from service.media.decoders.zygote_link import ZygoteLink
from service.media.framing import JPEG, RGB24, STILL_REQUEST, STILL_SIZE, FrameSize, ProtocolError
from service.media.policy import MediaPolicy

# Longest wall time for one picture; a JPEG of 9 megapixels takes about 0.1 s of CPU.
_PICTURE_S = 10.0
# Pictures after which a child is replaced, which limits what a compromised child can do.
_MAX_PICTURES = 1000

_Resized = tuple[NDArray[np.uint8], tuple[int, int]]


class StillDecoders:
    """The still-picture decoders of all live streams.

    Args:
        link: starts children.
        policy: limits.
        max_streams: most streams at once, and so most children.
        num_decoders: most pictures that are decoded at once.
    """

    def __init__(self, link: ZygoteLink, policy: MediaPolicy, *, max_streams: int, num_decoders: int) -> None:
        self._link = link
        self._policy = policy
        self._max_streams = max_streams
        self._slots = asyncio.Semaphore(num_decoders)
        self._open: set[StillDecoder] = set()

    @contextmanager
    def open(self) -> Iterator[StillDecoder]:
        """Open the decoder of one stream; leaving the context kills its child.

        Raises:
            ServiceError: `too_many_requests`, `max_streams` are open.
        """
        if len(self._open) >= self._max_streams:
            raise ServiceError("too_many_requests", f"{self._max_streams} live streams are open; try again later.")
        decoder = StillDecoder(self._link, self._policy, self._slots)
        self._open.add(decoder)
        try:
            yield decoder
        finally:
            self._open.discard(decoder)
            decoder.close()

    def close(self) -> None:
        """Kill all children."""
        for decoder in self._open:
            decoder.close()


class StillDecoder:
    """Decodes the pictures of one stream, one at a time. Its child starts with the first picture."""

    def __init__(self, link: ZygoteLink, policy: MediaPolicy, slots: asyncio.Semaphore) -> None:
        self._link = link
        self._policy = policy
        self._slots = slots
        self._turn = asyncio.Lock()
        self._channel: Channel | None = None
        self._num_pictures = 0

    @property
    def pid(self) -> int | None:
        """Return the child's process id."""
        return self._channel.pid if self._channel is not None else None

    def close(self) -> None:
        """Kill the child. The next picture starts another."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def decode_jpeg(self, data: bytes, *, height: int, width: int) -> _Resized:
        """Decode a JPEG and resize it.

        Returns:
            uint8 RGB (height, width, 3), and the picture's own (height, width) in pixels.

        Raises:
            ServiceError: `broken`, `picture_too_large`, `too_costly`, `decoder_gone`.
        """
        request = STILL_REQUEST.pack(JPEG, 0, 0, height, width, len(data))
        return await self._ask(request + data, FrameSize(height, width))

    async def resize_rgb(self, frame: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
        """Resize an RGB frame, uint8 (H, W, 3), to (height, width, 3) with the same filter as JPEGs.

        Raises:
            ServiceError: `picture_too_large`, `decoder_gone`.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frame: got {frame.dtype} {frame.shape}, expected uint8 (H, W, 3)")
        if frame.shape[0] * frame.shape[1] > self._policy.max_pixels:
            raise ServiceError(
                "picture_too_large",
                f"The frame has {frame.shape[1]}x{frame.shape[0]} pixels, over the limit of {self._policy.max_pixels}.",
            )
        if frame.shape[:2] == (height, width):
            return frame
        data = np.ascontiguousarray(frame).tobytes()
        request = STILL_REQUEST.pack(RGB24, frame.shape[0], frame.shape[1], height, width, len(data))
        resized, _ = await self._ask(request + data, FrameSize(height, width))
        return resized

    async def _ask(self, message: bytes, size: FrameSize) -> _Resized:
        """Send one picture and receive it resized. Any failure of the child ends the child."""
        async with self._turn, self._slots:
            channel = await self._take_channel()
            is_reusable = False
            try:
                async with bounded_wait(_PICTURE_S, _too_slow):
                    await channel.send(message)
                    answer = _unpack(*await channel.receive(size), size)
                is_reusable = True
            except (ChildGoneError, ProtocolError):
                raise ServiceError("broken", "The frame ended its decoder.") from None
            finally:
                if not is_reusable:
                    self.close()
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def _take_channel(self) -> Channel:
        """Return the channel to a live child; starts one if there is none."""
        if self._channel is not None and (self._channel.child.exited.done() or self._num_pictures >= _MAX_PICTURES):
            self.close()
        if self._channel is None:
            self._channel = await self._start_child()
            self._num_pictures = 0
        self._num_pictures += 1
        return self._channel

    async def _start_child(self) -> Channel:
        job = {"memory_bytes": self._policy.memory_bytes, "max_pixels": self._policy.max_pixels}
        return await Channel.open(self._link, "stills", job)


def _too_slow() -> ServiceError:
    return ServiceError("too_costly", "The frame takes too long to decode.")


def _unpack(kind: int, body: bytearray, size: FrameSize) -> _Resized | ServiceError:
    if kind == framing.ERROR:
        return framing.unpack_error(body)[0]
    if kind != framing.FRAME or len(body) != STILL_SIZE.size + size.num_bytes:
        raise ProtocolError("frame")
    height, width = STILL_SIZE.unpack_from(body)
    rgb = np.frombuffer(body, np.uint8, size.num_bytes, STILL_SIZE.size).reshape(size.height, size.width, 3)
    return rgb, (height, width)
