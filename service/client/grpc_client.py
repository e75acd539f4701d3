"""The gRPC clients: clips and live streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import grpc
from grpc import aio

from service.client.answer import Answer, OnEvent, cut_off
from service.client.failures import grpc_error, unreachable
from service.client.grpc_messages import (
    CHANNEL_OPTIONS,
    answer_event,
    live_event,
    live_options,
    live_request,
    metadata,
    model_info,
    segment_requests,
)
from service.client.policy import ClientPolicy
from service.client.retry import gather, gather_async, retried, retried_async
from service.domain.live import LiveEvent, LiveInput, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent
from service.domain.result import ModelInfo, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub


class GrpcClient:
    """Blocking client over gRPC; `target` is `host:port`."""

    def __init__(self, target: str, policy: ClientPolicy | None = None, *, is_secure: bool = False) -> None:
        self._target = target
        self._policy = policy or ClientPolicy()
        if is_secure:
            self._channel = grpc.secure_channel(target, _credentials(self._policy), options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = SegmentationStub(self._channel)

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in progress end."""
        self._channel.close()

    def model(self) -> ModelInfo:
        """The model that answers. Raises ServiceError."""
        timeout_s = self._policy.timeout_s or self._policy.connect_timeout_s
        with _translated(self._target):
            return model_info(
                self._stub.GetModel(
                    pb.GetModelRequest(), timeout=timeout_s, metadata=metadata(self._policy, request_id=None)
                )
            )

    def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """The whole answer to a clip; what is retryable is tried again. Raises ServiceError."""
        return retried(lambda: gather(self.stream(source, options), on_event=on_event), self._policy)

    def stream(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, request_id: str | None = None
    ) -> Iterator[AnswerEvent]:
        """The events of one try, as they come, also while the clip still goes up. Raises ServiceError."""
        asked = options or SegmentOptions()
        call = self._stub.Segment(
            segment_requests(source, asked),
            timeout=self._policy.timeout_s,
            metadata=metadata(self._policy, request_id=request_id),
        )
        event = None
        try:
            with _translated(self._target):
                for message in call:
                    event = answer_event(message, options=asked)
                    if event is not None:
                        yield event
        finally:
            call.cancel()
        if not isinstance(event, Summary):
            raise cut_off()

    def live(self, inputs: Iterable[LiveInput], options: LiveOptions | None = None) -> Iterator[LiveEvent]:
        """The answers to a live stream; `inputs` is read in a thread of its own. Raises ServiceError."""
        call = self._stub.SegmentLive(
            _live_requests(inputs, options or LiveOptions()), metadata=metadata(self._policy, request_id=None)
        )
        try:
            with _translated(self._target):
                for message in call:
                    event = live_event(message)
                    if event is not None:
                        yield event
        finally:
            call.cancel()


class AsyncGrpcClient:
    """The same for asyncio."""

    def __init__(self, target: str, policy: ClientPolicy | None = None, *, is_secure: bool = False) -> None:
        self._target = target
        self._policy = policy or ClientPolicy()
        if is_secure:
            self._channel = aio.secure_channel(target, _credentials(self._policy), options=CHANNEL_OPTIONS)
        else:
            self._channel = aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = SegmentationStub(self._channel)

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the channel; calls in progress end."""
        await self._channel.close()

    async def model(self) -> ModelInfo:
        """The model that answers. Raises ServiceError."""
        timeout_s = self._policy.timeout_s or self._policy.connect_timeout_s
        with _translated(self._target):
            return model_info(
                await self._stub.GetModel(
                    pb.GetModelRequest(), timeout=timeout_s, metadata=metadata(self._policy, request_id=None)
                )
            )

    async def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """The whole answer to a clip; what is retryable is tried again. Raises ServiceError."""
        return await retried_async(lambda: gather_async(self.stream(source, options), on_event=on_event), self._policy)

    async def stream(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, request_id: str | None = None
    ) -> AsyncIterator[AnswerEvent]:
        """The events of one try, as they come, also while the clip still goes up. Raises ServiceError."""
        asked = options or SegmentOptions()
        call = self._stub.Segment(
            segment_requests(source, asked),
            timeout=self._policy.timeout_s,
            metadata=metadata(self._policy, request_id=request_id),
        )
        event = None
        try:
            with _translated(self._target):
                async for message in call:
                    event = answer_event(message, options=asked)
                    if event is not None:
                        yield event
        finally:
            call.cancel()
        if not isinstance(event, Summary):
            raise cut_off()

    async def live(
        self, inputs: AsyncIterator[LiveInput], options: LiveOptions | None = None
    ) -> AsyncIterator[LiveEvent]:
        """The answers to a live stream. Raises ServiceError."""
        call = self._stub.SegmentLive(
            _async_live_requests(inputs, options or LiveOptions()), metadata=metadata(self._policy, request_id=None)
        )
        try:
            with _translated(self._target):
                async for message in call:
                    event = live_event(message)
                    if event is not None:
                        yield event
        finally:
            call.cancel()


def _live_requests(inputs: Iterable[LiveInput], options: LiveOptions) -> Iterator[pb.LiveRequest]:
    yield live_options(options)
    for item in inputs:
        yield live_request(item)


async def _async_live_requests(inputs: AsyncIterator[LiveInput], options: LiveOptions) -> AsyncIterator[pb.LiveRequest]:
    yield live_options(options)
    async for item in inputs:
        yield live_request(item)


@contextmanager
def _translated(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        status, message = error.code(), error.details()
        trailers: list[tuple[str, str | bytes]] = list(cast(Any, error.trailing_metadata() or ()))
        if status is grpc.StatusCode.UNAVAILABLE and not any(key == "grpc-status-details-bin" for key, _ in trailers):
            raise unreachable(target) from None
        raise grpc_error(status, message, trailers) from None


def _credentials(policy: ClientPolicy) -> grpc.ChannelCredentials:
    roots = None if policy.ca_file is None else policy.ca_file.read_bytes()
    return grpc.ssl_channel_credentials(root_certificates=roots)
