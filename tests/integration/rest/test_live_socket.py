"""The WebSocket /live over real connections, with real decoders and the real batcher."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
from pycocotools import mask as coco
from support.clients.raw_websocket import BINARY, TEXT, client_frame, switched
from support.inputs.live_inputs import bright_picture, dotted_picture, jpeg_of, noise, raw_frame
from support.servers.front import RunningFront, beside, running_front
from support.waiting import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.codec.live_json import MAX_MESSAGE_BYTES, encode_live_input
from service.domain.live import LiveFrame
from service.rest import live
from service.rest.connection import websocket

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


def opened(front: RunningFront, path: str = "/v1/live", **options: object) -> connect:
    return connect(f"ws://127.0.0.1:{front.http_port}{path}", max_size=None, open_timeout=HANG_S, **options)


async def rest_of(socket: ClientConnection) -> list[dict[str, object]]:
    """The messages up to the close."""
    messages = []
    try:
        async with asyncio.timeout(HANG_S):
            while True:
                messages.append(json.loads(await socket.recv()))
    except ConnectionClosed:
        return [message for message in messages if message["type"] != "heartbeat"]


async def say(socket: ClientConnection, **message: object) -> None:
    await socket.send(json.dumps(message))


@pytest.mark.parametrize("path", ["/live", "/v1/live?from=page"])
async def test_pictures_and_sound_become_masks(front: RunningFront, path: str) -> None:
    picture = bright_picture()
    async with opened(front, path) as socket:
        await say(socket, type="options", threshold=0.5, max_waiting_frames=64, labels=["sounding"])
        for item in (noise(0.0, 0.5), raw_frame(0.4, picture), LiveFrame(0.5, jpeg_of(picture), "jpeg", 0, 0)):
            await socket.send(encode_live_input(item))
        await say(socket, type="end")
        messages = await rest_of(socket)
    assert socket.close_code == 1000
    model, *frames, end = [message for message in messages if message["type"] != "event"]
    assert (model["type"], model["labels"], end) == ("model", ["sounding"], {"type": "end"})
    assert [frame["timestamp_s"] for frame in frames] == [0.4, 0.5]
    for frame in frames:
        assert frame["num_dropped_frames"] == 0
        (mask,) = frame["masks"]
        rle = mask["segmentation"]
        pixels = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
        assert pixels.shape == (96, 128)
        assert pixels[:, :60].all()
        assert not pixels[:, 68:].any()


async def test_events_close_on_the_socket(front: RunningFront) -> None:
    async with opened(front) as socket:
        await say(socket, type="options", event_gap_s=0, event_min_s=0, max_waiting_frames=64)
        await socket.send(encode_live_input(noise(0.0, 1.0)))
        for at_s, level in ((0.2, 255), (0.4, 255), (0.6, 0)):
            await socket.send(encode_live_input(raw_frame(at_s, np.full((96, 128, 3), level, np.uint8))))
        await say(socket, type="end")
        (event,) = [message for message in await rest_of(socket) if message["type"] == "event"]
    assert event["label"] == "sounding"
    assert event["end_s"] > event["start_s"]


async def test_an_open_event_ends_before_a_hole_without_frames(front: RunningFront) -> None:
    times_s = [*(1.0 + 0.1 * number for number in range(10)), 6.9, 7.0]
    async with opened(front) as socket:
        await say(socket, type="options", event_min_s=0, max_waiting_frames=64)
        await socket.send(encode_live_input(noise(0.0, 8.0)))
        for time_s in times_s:
            await socket.send(encode_live_input(raw_frame(time_s, bright_picture())))
        await say(socket, type="end")
        events = [message for message in await rest_of(socket) if message["type"] == "event"]
    assert [(event["start_s"], event["end_s"]) for event in events] == [
        (pytest.approx(1.0), pytest.approx(1.9)),
        (pytest.approx(6.9), pytest.approx(7.0)),
    ]


async def test_a_bad_message_ends_the_stream_behind_the_event_that_was_open(front: RunningFront) -> None:
    async with opened(front) as socket:
        await say(socket, type="options", event_min_s=0, max_waiting_frames=64)
        await socket.send(encode_live_input(noise(0.0, 2.0)))
        for number in range(5):
            await socket.send(encode_live_input(raw_frame(1.0 + 0.1 * number, bright_picture())))
        messages = [json.loads(await asyncio.wait_for(socket.recv(), HANG_S)) for _ in range(6)]
        await socket.send(b"short")
        event, error = await rest_of(socket)
    assert [message["type"] for message in messages] == ["model", *["frame"] * 5]
    assert (event["start_s"], event["end_s"]) == (pytest.approx(1.0), pytest.approx(1.4))
    assert (error["type"], error["problem"]["code"]) == ("error", "malformed_body")


async def test_a_bad_frame_does_not_end_the_stream(front: RunningFront) -> None:
    async with opened(front) as socket:
        await say(socket, type="options", max_waiting_frames=64)
        await socket.send(encode_live_input(LiveFrame(0.1, b"no picture", "jpeg", 0, 0)))
        await socket.send(encode_live_input(raw_frame(0.1, bright_picture())))
        await socket.send(encode_live_input(raw_frame(0.2, bright_picture())))
        await say(socket, type="end")
        messages = await rest_of(socket)
    assert [message["code"] for message in messages if message["type"] == "frame_error"] == [
        "malformed_body",
        "broken",
    ] or [message["code"] for message in messages if message["type"] == "frame_error"] == ["broken", "malformed_body"]
    assert [message["timestamp_s"] for message in messages if message["type"] == "frame"] == [0.2]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"type": "options", "threshold": 7}', "bad_option"),
        ('{"type": "options", "labels": ["dragon"]}', "bad_option"),
        ('{"type": "options", "labels": {}}', "bad_option"),
        ('{"type": "options", "api_key": 7}', "bad_option"),
        ('{"type": "frame"}', "malformed_body"),
        ("[" * 100_000, "malformed_body"),
        (b"\0" * 20, "malformed_body"),
    ],
)
async def test_a_bad_first_message_is_told(front: RunningFront, first: str | bytes, code: str) -> None:
    async with opened(front) as socket:
        await socket.send(first)
        *_, last = await rest_of(socket)
    assert (last["type"], last["problem"]["code"]) == ("error", code)
    assert (socket.close_code, socket.close_reason) == (1008, code)


@pytest.mark.parametrize("message", ['{"type": "options"}', "{}", b"\7" * 20, b"short"])
async def test_a_bad_later_message_ends_the_stream(front: RunningFront, message: str | bytes) -> None:
    async with opened(front) as socket:
        await say(socket, type="options")
        await socket.send(message)
        *_, last = await rest_of(socket)
    assert last["problem"]["code"] == "malformed_body"


async def test_a_message_over_the_limit_closes_the_socket(front: RunningFront) -> None:
    async with opened(front) as socket:
        await say(socket, type="options")
        with suppress(ConnectionClosed):
            await socket.send(b"\1" + bytes(MAX_MESSAGE_BYTES))
        await rest_of(socket)
    assert socket.close_code == 1009


async def test_without_options_the_stream_ends(front: RunningFront, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "OPTIONS_TIMEOUT_S", 0.05)
    async with opened(front) as socket:
        (last,) = await rest_of(socket)
    assert last["problem"]["code"] == "slow_upload"


async def test_pages_of_other_sites_are_refused(front: RunningFront) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(front, origin="https://evil.example"):
            pass
    assert refusal.value.response.status_code == 403
    assert json.loads(refusal.value.response.body)["code"] == "forbidden"
    async with opened(front, origin=f"http://127.0.0.1:{front.http_port}") as socket:
        await say(socket, type="options")
        await say(socket, type="end")
        assert [message["type"] for message in await rest_of(socket)] == ["model", "end"]


async def test_a_key_comes_by_header_or_in_the_options(tmp_path: Path) -> None:
    key = "k" * 24
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(key.encode()).hexdigest()} page\n")
    async with running_front(api_keys_file=keys, cors_origins="https://studio.example") as front:
        with pytest.raises(InvalidStatus) as refusal:
            async with opened(front, additional_headers={"Authorization": "Bearer wrong"}):
                pass
        assert json.loads(refusal.value.response.body)["code"] == "unauthenticated"
        async with opened(front) as socket:
            await say(socket, type="options")
            (last,) = await rest_of(socket)
            assert last["problem"]["code"] == "unauthenticated"
        for headers, message in (({}, {"api_key": key}), ({"Authorization": f"Bearer {key}"}, {})):
            async with opened(front, additional_headers=headers, origin="https://studio.example") as socket:
                await say(socket, type="options", **message)
                await say(socket, type="end")
                assert [sent["type"] for sent in await rest_of(socket)] == ["model", "end"]
        assert (
            front.front.core.metrics.registry.get_sample_value(
                "avesformer_requests_total", {"transport": "live", "code": "ok"}
            )
            == 2
        )


async def test_a_drain_ends_the_stream_with_its_code() -> None:
    async with running_front() as front, opened(front) as socket:
        await say(socket, type="options")
        assert json.loads(await socket.recv())["type"] == "model"
        await front.drain()
        *_, last = await rest_of(socket)
        assert last["problem"]["code"] == "draining"
        assert socket.close_code == 1012


async def test_a_client_that_leaves_gives_its_stream_back(front: RunningFront) -> None:
    admission = front.front.core.admission
    async with opened(front) as socket:
        await say(socket, type="options")
        assert json.loads(await socket.recv())["type"] == "model"
        assert admission.in_flight == 1
    async with asyncio.timeout(HANG_S):
        while admission.in_flight:
            await asyncio.sleep(0.01)


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with running_front(max_live_streams=1) as front, opened(front) as first, opened(front) as second:
        await say(first, type="options")
        assert json.loads(await first.recv())["type"] == "model"
        await say(second, type="options")
        (last,) = await rest_of(second)
        assert last["problem"]["code"] == "too_many_requests"
        assert second.close_code == 1013


async def test_a_stream_that_is_not_read_is_cut_and_dropped_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LAST_BYTES_S", 0.3)
    picture = jpeg_of(dotted_picture())
    async with running_front() as running, beside(running, stall_s=1.0) as impatient, asyncio.timeout(HANG_S):
        count = running.front.core.metrics.registry.get_sample_value
        async with opened(impatient) as other, switched(impatient.http_port) as (stalled, writer):
            await say(other, type="options", max_waiting_frames=64)
            writer.write(client_frame(TEXT, b'{"type": "options", "max_waiting_frames": 64}'))
            for at_s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
                for item in (noise(at_s - 0.5, 0.5), LiveFrame(at_s, picture, "jpeg", 0, 0)):
                    await other.send(encode_live_input(item))
                    writer.write(client_frame(BINARY, encode_live_input(item)))
            await until(lambda: count("avesformer_requests_total", {"transport": "live", "code": "slow_reader"}))
            await say(other, type="end")
            assert [message["type"] for message in await rest_of(other)].count("frame") == 6
            with suppress(ConnectionError):
                while await stalled.read(65_536):  # the end of the connection, behind what waited
                    pass


async def test_idle_sockets_give_way_to_others_and_streams_stay() -> None:
    """A socket without options may be anyone's, so that a crowd of them must not take all connections."""
    async with (
        running_front(max_connections=16) as crowded,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{crowded.http_port}") as client,
    ):
        async with opened(crowded) as stream:
            await say(stream, type="options", max_waiting_frames=64)
            assert json.loads(await stream.recv())["type"] == "model"
            idle = [await opened(crowded) for _ in range(40)]
            for path in ("/livez", "/version", "/livez"):
                assert (await client.get(path, timeout=HANG_S)).status_code == 200
            await stream.send(encode_live_input(noise(0.0, 0.5)))
            await stream.send(encode_live_input(raw_frame(0.4, bright_picture())))
            await say(stream, type="end")
            assert [message["type"] for message in await rest_of(stream)][-1] == "end"
        for socket in idle:
            await socket.close()


@pytest.mark.parametrize("sent", [b"\x81\x82\0\0\0\0\xff\xfe", b""])
async def test_what_a_client_does_wrong_is_no_fault_of_the_service(
    front: RunningFront, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of these logged an error with a traceback, so that a stranger could fill the log."""
    key = b"" if sent else b"Origin: https://elsewhere\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", front.http_port)
    writer.write(
        b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + key + b"\r\n"
    )
    async with asyncio.timeout(HANG_S):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await reader.read()
    writer.close()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
