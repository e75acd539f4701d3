"""The splitter of a connection's bytes: what it hands to the parser, and what it refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import ServiceError
from service.rest.connection.framing import Piece, RequestSplitter

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 256


def splitter() -> RequestSplitter:
    return RequestSplitter(max_head_bytes=LIMIT)


def pieces_of(data: bytes, *, length: int | None, cuts: list[int] | None = None) -> list[Piece]:
    """All pieces of one request and what follows it, added in the parts that `cuts` give."""
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    found: list[Piece] = []
    split = splitter()
    for start, end in pairwise(bounds):
        split.add(data[start:end])
        while (piece := split.take()) is not None:
            found.append(piece)
            if piece.is_head:
                split.begin_body(length)
            if piece.ends_body:
                return found
    return found


@given(st.lists(st.integers(min_value=0, max_value=200)))
def test_a_chunked_body_is_split_the_same_however_it_arrives(cuts: list[int]) -> None:
    body = b"5;ext=1\r\nhello\r\n1\r\n\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
    found = pieces_of(HEAD + body + HEAD, length=None, cuts=cuts)
    assert found[0] == Piece(HEAD, is_head=True)
    assert b"".join(piece.data for piece in found[1:]) == body
    assert [piece.ends_body for piece in found[1:]] == [False] * (len(found) - 2) + [True]


@given(st.lists(st.integers(min_value=0, max_value=200)))
def test_a_body_of_known_length_ends_where_it_says(cuts: list[int]) -> None:
    found = pieces_of(HEAD + b"\r\n\r\n0\r\n\r\nGET" + HEAD, length=12, cuts=cuts)
    assert b"".join(piece.data for piece in found[1:]) == b"\r\n\r\n0\r\n\r\nGET"
    assert found[-1].ends_body


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n" + b"X-A: b\r\n" * 100,  # many trailers
        b"0\r\nX-A: " + b"b" * 600,  # one that never ends
        b"1;" + b"x" * 600,  # a chunk extension
        b"1\r\nx\r\n" * 100,  # framing of one-byte chunks
        b"1;a=bcdefghijk\r\nx\r\n" * 40,  # an extension to each
    ],
)
def test_bytes_that_are_no_body_are_bounded(body: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        pieces_of(HEAD + body, length=None)
    assert refused.value.code == "headers_too_large"


@pytest.mark.parametrize("start", [b"1;", b"0\r\nX-A: "], ids=["chunk size", "trailer"])
@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["open", "complete"])
def test_a_line_is_bounded_behind_a_body_of_any_size(start: bytes, end: bytes) -> None:
    body = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    with pytest.raises(ServiceError) as refused:
        pieces_of(HEAD + body + start + b"a" * LIMIT + end, length=None)
    assert refused.value.code == "headers_too_large"


def test_a_read_that_is_all_body_is_handed_on_uncopied() -> None:
    split = splitter()
    split.add(HEAD)
    split.take()
    split.begin_body(12)
    for data, ends_body in ((b"first!", False), (b"second", True)):
        split.add(data)
        piece = split.take()
        assert piece is not None
        assert piece.data is data
        assert piece.ends_body == ends_body


def test_small_chunks_are_no_offence() -> None:
    body = b"".join(b"10\r\n%s\r\n" % (b"x" * 16) for _ in range(1000)) + b"0\r\n\r\n"
    assert pieces_of(HEAD + body, length=None)[-1].ends_body


@pytest.mark.parametrize("size", [b"", b"-1", b"0x1", b"g", b"f" * 16, b" 1", b"1_0"])
def test_a_chunk_size_that_is_no_number_is_refused(size: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        pieces_of(HEAD + size + b"\r\nx\r\n0\r\n\r\n", length=None)
    assert refused.value.code == "malformed_body"


def test_blank_lines_before_a_head_are_dropped_and_bounded() -> None:
    split = splitter()
    split.add(b"\r\n\r\n" + HEAD)
    assert split.take() == Piece(HEAD, is_head=True)
    for _ in range(LIMIT // 2):
        split.add(b"\r\n")
    with pytest.raises(ServiceError) as refused:
        split.add(b"\r\n")
    assert refused.value.code == "headers_too_large"


def test_a_head_is_whole_and_bounded() -> None:
    split = splitter()
    for byte in HEAD[:-1]:
        split.add(bytes([byte]))
        assert split.take() is None
    split.add(HEAD[-1:])
    assert split.take() == Piece(HEAD, is_head=True)
    for data in (b"GET / HTTP/1.1\r\nX: " + b"a" * LIMIT, b"GET / HTTP/1.1\r\nX: " + b"a" * LIMIT + b"\r\n\r\n"):
        split = splitter()
        split.add(data)
        with pytest.raises(ServiceError) as refused:
            split.take()
        assert refused.value.code == "headers_too_large"


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_to_upgrade_is_renamed(name: bytes) -> None:
    split = splitter()
    split.add(b"POST /upgrade HTTP/1.1\r\nX-Upgrade: 1\r\n" + name + b": h2c\r\nConnection: Upgrade\r\n\r\n")
    piece = split.take()
    assert piece is not None
    assert piece.data == (
        b"POST /upgrade HTTP/1.1\r\nX-Upgrade: 1\r\nx-ignored-upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    )


def test_another_protocol_fails_at_its_first_byte() -> None:
    split = splitter()
    split.add(b"\x16\x03\x01")
    with pytest.raises(ServiceError) as refused:
        split.take()
    assert refused.value.code == "malformed_body"
