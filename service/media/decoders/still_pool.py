"""Single pictures of live streams, decoded in jailed children that live on between pictures."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media import framing
from service.media.decoders.child_channel import Channel, ChildGoneError
from service.media.decoders.zygote_link import ZygoteLink
from service.media.framing import FrameSize, ProtocolError
from service.media.policy import MediaPolicy
from service.media.still_wire import JPEG, REQUEST, RGB24, SIZE

_PICTURE_S = 10.0
"""Wall time for one picture; a 9-megapixel JPEG takes about 0.1 s of CPU."""


class StillPool:
    """Up to `num_children` children, started when first needed, replaced when they die."""

    def __init__(self, link: ZygoteLink, policy: MediaPolicy, *, num_children: int) -> None:
        self._link = link
        self._policy = policy
        self._slots = asyncio.Semaphore(num_children)
        self._idle: list[Channel] = []

    async def aclose(self) -> None:
        """End the children that are idle."""
        while self._idle:
            self._idle.pop().close()

    async def decode_jpeg(self, data: bytes, *, height: int, width: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """See DecoderPool.decode_jpeg."""
        request = REQUEST.pack(JPEG, 0, 0, height, width, len(data))
        return await self._ask(request + data, FrameSize(height, width))

    async def resize_rgb(self, frame: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
        """See DecoderPool.resize_rgb."""
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
        request = REQUEST.pack(RGB24, frame.shape[0], frame.shape[1], height, width, len(data))
        resized, _ = await self._ask(request + data, FrameSize(height, width))
        return resized

    async def _ask(self, message: bytes, size: FrameSize) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        async with self._slots:
            channel = await self._channel()
            is_reusable = False
            try:
                async with asyncio.timeout(_PICTURE_S):
                    await channel.send(message)
                    kind, body = await channel.receive(size)
                answer = _unpack(kind, body, size)
                is_reusable = True
            except TimeoutError:
                raise ServiceError("too_costly", "The frame takes too long to decode.") from None
            except (ChildGoneError, ProtocolError):
                raise ServiceError("broken", "The frame ended its decoder.") from None
            finally:
                if is_reusable:
                    self._idle.append(channel)
                else:
                    channel.close()
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def _channel(self) -> Channel:
        while self._idle:
            channel = self._idle.pop()
            if not channel.child.exited.done():
                return channel
            channel.close()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        job = {"memory_bytes": self._policy.memory_bytes, "max_pixels": self._policy.max_pixels}
        try:
            with theirs:
                child = await self._link.spawn("stills", job, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return Channel(self._link, child, ours)


def _unpack(kind: int, body: bytearray, size: FrameSize) -> tuple[NDArray[np.uint8], tuple[int, int]] | ServiceError:
    if kind == framing.ERROR:
        return framing.unpack_error(body)[0]
    if kind != framing.FRAME or len(body) != SIZE.size + size.num_bytes:
        raise ProtocolError("frame")
    height, width = SIZE.unpack_from(body)
    rgb = np.frombuffer(body, np.uint8, size.num_bytes, SIZE.size).reshape(size.height, size.width, 3)
    return rgb, (height, width)
