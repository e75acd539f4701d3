"""The client's names for users. An installation has this module as `avesformer_client`.

    from avesformer_client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.segment(Path("clip.mp4"))

`Client` uses HTTP. `open_client` takes gRPC addresses as well. These names are part of the public contract; the
modules that define them are not.
"""

from __future__ import annotations

from service.client.answer import Answer, Track
from service.client.connect import open_async_client, open_client
from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_client import GrpcClient
from service.client.jobs import RemoteJob
from service.client.policy import ClientPolicy
from service.client.rest import AsyncRestClient as AsyncClient
from service.client.rest import RestClient as Client
from service.codec.job_json import JobStatus
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveFrameError, LiveMasks, LiveOptions, SoundPiece
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncGrpcClient",
    "Client",
    "ClientPolicy",
    "ClipStarted",
    "FrameMasks",
    "GrpcClient",
    "JobStatus",
    "LiveFrame",
    "LiveFrameError",
    "LiveMasks",
    "LiveOptions",
    "Mask",
    "ModelInfo",
    "RemoteJob",
    "Rle",
    "SegmentOptions",
    "ServiceError",
    "SoundEvent",
    "SoundPiece",
    "Summary",
    "Track",
    "open_async_client",
    "open_client",
]
