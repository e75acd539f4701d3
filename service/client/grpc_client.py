"""The blocking gRPC client: clips and live streams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import grpc

from service.client.answer import Answer, OnEvent, cut_off
from service.client.closing import ClosedOnExit
from service.client.failures import grpc_error, unreachable
from service.client.grpc_messages import channel_options, metadata, segment_requests
from service.client.policy import ClientPolicy
from service.client.retry import gather, retried
from service.codec.protobuf import (
    decode_event,
    decode_live_event,
    decode_model,
    encode_live_input,
    encode_live_options,
)
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveInput, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent
from service.domain.result import ModelInfo, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

_E = TypeVar("_E")
# A stream-stream call of the blocking API, which has no public type.
_Call: TypeAlias = Any


class GrpcClient(ClosedOnExit):
    """Blocking client over gRPC; `target` is `host:port`."""

    def __init__(self, target: str, policy: ClientPolicy | None = None, *, is_secure: bool = False) -> None:
        self._target = target
        self._policy = policy or ClientPolicy()
        options = channel_options(self._policy)
        if is_secure:
            self._channel = grpc.secure_channel(target, _credentials(self._policy), options=options)
        else:
            self._channel = grpc.insecure_channel(target, options=options)
        self._stub = SegmentationStub(self._channel)

    def close(self) -> None:
        """Close the channel. Calls in progress end."""
        self._channel.close()

    def model(self) -> ModelInfo:
        """Return the model of the service. Raises ServiceError."""
        timeout_s = self._policy.timeout_s or self._policy.connect_timeout_s
        with _translated(self._target):
            return decode_model(
                self._stub.GetModel(
                    pb.GetModelRequest(), timeout=timeout_s, metadata=metadata(self._policy, request_id=None)
                )
            )

    def segment(
        self, source: Path | bytes, options: SegmentOptions | None = None, *, on_event: OnEvent | None = None
    ) -> Answer:
        """Return the whole answer to a clip. Retryable errors are retried. Raises ServiceError."""
        return retried(lambda: gather(self.stream(source, options), on_event=on_event), self._policy)

    def stream(
        self,
        source: Path | bytes,
        options: SegmentOptions | None = None,
        *,
        request_id: str | None = None,
        resume_from_index: int = 0,
    ) -> Iterator[AnswerEvent]:
        """Yield the events of one attempt as they arrive, also while the clip is still being sent. Raises ServiceError.

        The first `resume_from_index` frames are left out: an interrupted call with the same options returned them.
        """
        asked = options or SegmentOptions()
        return self.start_segment(source, asked, request_id=request_id, resume_from_index=resume_from_index).events()

    def live(self, inputs: Iterable[LiveInput], options: LiveOptions | None = None) -> Iterator[LiveEvent]:
        """Yield the answers to a live stream; `inputs` is read in a thread of its own. Raises ServiceError."""
        return self.start_live(inputs, options or LiveOptions()).events()

    def start_segment(
        self,
        source: Path | bytes,
        asked: SegmentOptions,
        *,
        request_id: str | None = None,
        resume_from_index: int = 0,
    ) -> RunningCall[AnswerEvent]:
        """Start an attempt. The file is opened here, so that a missing one fails here (OSError)."""
        if isinstance(source, Path):
            source.open("rb").close()
        requests = _Requests(segment_requests(source, asked, resume_from_index=resume_from_index))
        call_metadata = metadata(self._policy, request_id=request_id)
        call = self._stub.Segment(requests.sent(), timeout=self._policy.timeout_s, metadata=call_metadata)
        requests.call.set_result(call)
        convert = functools.partial(decode_event, options=asked)
        return RunningCall(requests, self._target, convert, is_end=_is_summary)

    def start_live(self, inputs: Iterable[LiveInput], options: LiveOptions) -> RunningCall[LiveEvent]:
        """Start a live stream."""
        requests = _Requests(_live_requests(inputs, options))
        call = self._stub.SegmentLive(requests.sent(), metadata=metadata(self._policy, request_id=None))
        requests.call.set_result(call)
        return RunningCall(requests, self._target, decode_live_event)


class _Requests:
    """The outgoing messages of one call, read by gRPC in a thread of its own."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self.call: Future[_Call] = Future()
        self.failure: Exception | None = None

    def sent(self) -> Iterator[Any]:
        """Yield the options and, when the server has admitted the call, the rest. A refused call sends no data."""
        try:
            yield next(self._requests)
            self.call.result().initial_metadata()
            yield from self._requests
        except Exception as failure:  # root of gRPC's thread: the reader of the call gets it
            self.failure = failure
            self.call.result().cancel()


class RunningCall(Generic[_E]):
    """A call in progress; `cancel` may come from any thread, `events` are read by one."""

    def __init__(
        self,
        requests: _Requests,
        target: str,
        convert: Callable[[Any], _E | None],
        *,
        is_end: Callable[[_E | None], bool] = lambda event: True,
    ) -> None:
        self._requests = requests
        self._call = requests.call.result()
        self._target = target
        self._convert = convert
        self._is_end = is_end

    def cancel(self) -> None:
        """Cancel the call."""
        self._call.cancel()

    def events(self) -> Iterator[_E]:
        """Yield the converted messages. Leaving the iterator ends the call.

        Raises:
            ServiceError: the error of the server.
            Exception: the error of the caller's own source of data.
        """
        event = None
        try:
            with _translated(self._target):
                for message in self._call:
                    event = self._convert(message)
                    if event is not None:
                        yield event
        except ServiceError:
            if self._requests.failure is not None:
                raise self._requests.failure from None
            raise
        finally:
            self._call.cancel()
        if not self._is_end(event):
            raise cut_off()


def _is_summary(event: AnswerEvent | None) -> bool:
    return isinstance(event, Summary)


def _live_requests(inputs: Iterable[LiveInput], options: LiveOptions) -> Iterator[pb.LiveRequest]:
    yield encode_live_options(options)
    for item in inputs:
        yield encode_live_input(item)


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
