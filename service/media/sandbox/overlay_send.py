"""Draw an overlay in the jailed child and send the new file to the parent while it is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

import av
import cv2

from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.media.overlay.clip import OverlaySource
from service.media.overlay.draw import OverlayPolicy, draw_overlay
from service.media.policy import MediaPolicy
from service.media.sandbox.container.clip_index import ClipIndex
from service.media.sandbox.source import UploadSource

# One thread, and little memory: no frames are looked ahead at. Costs about a tenth of the file's size.
_POLICY = OverlayPolicy(crf=20, x264="threads=1:lookahead-threads=1:sync-lookahead=0:rc-lookahead=0:bframes=0")
# A file that is sent while it is written cannot be changed afterwards, so it is written in fragments. The index is
# written with the first one, since only then the edit lists are known.
_FRAGMENTED = {"movflags": "+frag_keyframe+delay_moov+default_base_moof", "use_editlist": "1"}
_PROGRESS_S = 0.5


class Outbox(Protocol):
    """Takes what the child sends."""

    def piece(self, data: bytes) -> None:
        """Send bytes of the file."""
        ...

    def progress(self) -> None:
        """Send a sign of life."""
        ...


def send_overlay(
    source: UploadSource, policy: MediaPolicy, frames: Sequence[FrameMasks], *, index: ClipIndex, outbox: Outbox
) -> None:
    """Write the upload with its masks as a fragmented mp4, upright, with its sound.

    Raises:
        ServiceError: every documented reason why a file does not decode.
    """
    cv2.setNumThreads(1)
    try:
        with ExitStack() as stack:
            clip = OverlaySource.open(lambda: source.open_container(policy), stack, index=index, policy=policy)
            target = stack.enter_context(av.open(_Writer(outbox), "w", format="mp4", options=_FRAGMENTED))
            draw_overlay(clip, target, frames, policy=_POLICY, on_progress=_SignsOfLife(outbox))
        source.check()
    except av.FFmpegError as error:
        source.check()
        detail = "The file is damaged: its index or media cannot be read. Export the clip again."
        raise ServiceError("broken", detail) from error


class _Writer:
    """The new file, as the file object that av.open takes; it cannot seek."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def write(self, data: bytes) -> int:
        """Send bytes."""
        self._outbox.piece(bytes(data))
        return len(data)


class _SignsOfLife:
    """Sends one every half second: an encoder writes nothing before a fragment ends."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._sent_at_s = time.monotonic()

    def __call__(self, share: float) -> None:
        now_s = time.monotonic()
        if now_s - self._sent_at_s >= _PROGRESS_S:
            self._sent_at_s = now_s
            self._outbox.progress()
