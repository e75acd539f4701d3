"""What travels with a request through the core, whatever transport brought it, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.options import AppliedOptions
from service.domain.result import FrameMasks, ModelInfo, Summary

Transport = Literal["rest", "grpc", "live", "job", "cli"]


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks, by when, and through which door. `is_interactive` is False for jobs, which yield to people waiting."""

    request_id: str
    transport: Transport
    deadline: Deadline
    may_use_cache: bool = True

    @property
    def is_interactive(self) -> bool:
        """Whether a person or a program waits on the open connection."""
        return self.transport != "job"


@dataclass(frozen=True, slots=True)
class ClipStarted:
    """The first event of an answer: what was uploaded, what answers, and the options as applied."""

    request_id: str
    model: ModelInfo
    clip: ClipInfo
    options: AppliedOptions


AnswerEvent = ClipStarted | FrameMasks | Summary
"""An answer is one ClipStarted, then FrameMasks in order, then one Summary; failures raise ServiceError."""
