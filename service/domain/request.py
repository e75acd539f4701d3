"""Values of a request on its way through the core, and the events of its answer."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import Literal

from service.domain.caller import ANONYMOUS, Caller
from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.options import AppliedOptions
from service.domain.result import FrameMasks, ModelInfo, SoundEvent, Summary
from service.domain.track_states import TrackStates

Transport = Literal["rest", "grpc", "live", "job", "cli"]
_SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Identity, deadline and transport of a request.

    Attributes:
        started_at_s: arrival on the monotonic clock; None counts from the start of the work.
        caller: unit of fair sharing, limits and logs.
        idempotency_key: as given by the caller; its scope is the caller.
        traceparent: span that the work belongs to; empty without one.
        heard_from_s: start of the answer that this one continues; its notes on the sound are about all of it. None for
            an answer of its own.
        track_states: takes the states of the tracker of `instances`, and has the one to continue from; None where the
            answer is not continued. Stays empty where another request's work answers this one too.
    """

    request_id: str
    transport: Transport
    deadline: Deadline
    may_use_cache: bool = True
    started_at_s: float | None = None
    caller: Caller = ANONYMOUS
    idempotency_key: str | None = None
    traceparent: str = ""
    heard_from_s: float | None = None
    track_states: TrackStates | None = None

    @property
    def owner(self) -> str:
        """Return the id of the caller's key, which scopes stored answers; empty where no keys are set."""
        return self.caller.key_id

    @property
    def is_interactive(self) -> bool:
        """Return whether the caller waits on the open connection. Jobs yield to interactive requests."""
        return self.transport != "job"


@dataclass(frozen=True, slots=True)
class ClipStarted:
    """The first event of an answer: clip, model, and the options as applied."""

    request_id: str
    model: ModelInfo
    clip: ClipInfo
    options: AppliedOptions


def complete_clip(clip: ClipInfo, summary: Summary) -> ClipInfo:
    """Return the clip of an answer's start, completed with what only the end of the answer tells."""
    audio = None if clip.audio is None else replace(clip.audio, notes=summary.audio_notes)
    return replace(clip, num_samples=summary.num_samples, audio=audio)


# An answer is one ClipStarted, then FrameMasks in order, then one Summary; failures raise ServiceError.
#
# A SoundEvent follows the frame that closes it; the last ones precede the Summary.
AnswerEvent = ClipStarted | FrameMasks | SoundEvent | Summary


def accept_request_id(given: str | None) -> str:
    """Return the caller's request id if it has up to 128 safe characters, else a new one."""
    if given is not None and _SAFE_REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(16)


def accept_traceparent(given: str | None) -> str:
    """Return the caller's `traceparent` in the form of version 00; empty if it is invalid (W3C Trace Context, 2.2).

    Of later versions the part that version 00 defines is used, as the standard requires. Ids of zeros are invalid.
    """
    found = _TRACEPARENT.fullmatch(given or "")
    if found is None or given is None or given.startswith("ff") or (given.startswith("00") and found[4]):
        return ""
    trace_id, span_id, flags = found[1], found[2], found[3]
    if not trace_id.strip("0") or not span_id.strip("0"):
        return ""
    return f"00-{trace_id}-{span_id}-{flags}"
