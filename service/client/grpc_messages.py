"""The outgoing part of a gRPC client: channel options, metadata, the messages of an upload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.client.policy import CHUNK_BYTES, ClientPolicy
from service.codec.protobuf import MAX_MESSAGE_BYTES, encode_options
from service.domain.options import SegmentOptions
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb


def channel_options(policy: ClientPolicy) -> list[tuple[str, int]]:
    """Return the options of gRPC core. An unanswered ping during a call ends the call, even if nothing is sent."""
    timeout_ms = round(1000 * policy.connect_timeout_s)
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_retries", 0),  # this client retries by itself, because it knows the stable codes
        ("grpc.keepalive_time_ms", round(1000 * policy.keepalive_s)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),  # core 1.85 waits a minute if only the other is set
        ("grpc.http2.max_pings_without_data", 0),
    ]


def metadata(policy: ClientPolicy, *, request_id: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call."""
    entries: list[tuple[str, str]] = []
    if policy.api_key is not None:
        entries.append(("authorization", f"Bearer {policy.api_key}"))
    if request_id is not None:
        entries.append(("x-request-id", request_id))
    return tuple(entries)


def segment_requests(
    source: Path | bytes, options: SegmentOptions, *, resume_from_index: int = 0
) -> Iterator[pb.SegmentRequest]:
    """Yield the messages of an upload: options, then the file in chunks."""
    message = encode_options(options)
    message.resume_from_index = resume_from_index
    yield pb.SegmentRequest(options=message)
    for block in read_blocks(source):
        yield pb.SegmentRequest(chunk=block)


def read_blocks(source: Path | bytes) -> Iterator[bytes]:
    """Yield the bytes of a file or bytes object, `CHUNK_BYTES` at a time; an empty source gives one empty block."""
    if isinstance(source, bytes):
        for at in range(0, max(1, len(source)), CHUNK_BYTES):
            yield source[at : at + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        yield file.read(CHUNK_BYTES)
        while block := file.read(CHUNK_BYTES):
            yield block
