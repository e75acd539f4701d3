"""Every format of masks decodes to the same pixels; captions and tables are read back by other readers."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary
from service.formats.choose import FORMATS, formatter_of

MODEL = ModelInfo("tiny", "sha256:ab", ("dog", "siren, far"), None, 9, 9)
SUMMARY = Summary(2)
EVENTS = [SoundEvent("siren, far", None, 3661.5, 3662.0, 9, 0.5), SoundEvent("<dog>", 2, 0.25, 1.5, 4, 0.75)]
MASKS = npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


def started(**options: object) -> ClipStarted:
    return ClipStarted(
        "id",
        MODEL,
        ClipInfo(9, 9, "1:1", 2.0, 25.0, 2),
        SegmentOptions(**options).resolve(MODEL),  # type: ignore[arg-type]
    )


def mask_of(pixels: np.ndarray, label: str = "dog") -> Mask:
    rle = coco.encode(np.asfortranarray(pixels))
    box = tuple(int(n) for n in coco.toBbox(rle))
    return Mask(label, 0.5, int(pixels.sum()), box, Rle(pixels.shape, rle["counts"].decode()))  # type: ignore[arg-type]


def written(name: str, frames: list[FrameMasks], *, is_compressed: bool = True, **options: object) -> bytes:
    formatter = formatter_of(name, is_compressed=is_compressed, max_bytes=10**6)
    rest = b"".join(formatter.add(event) for event in (started(**options), *frames, *EVENTS, SUMMARY))
    return formatter.opening() + rest


def filled(polygons: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    """Even-odd at the centres of pixels: a ray to the right crosses vertical edges."""
    inside = np.zeros(size, bool)
    for flat in polygons:
        ring = list(zip(flat[::2], flat[1::2], strict=True))
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            assert (x0 == x1) != (y0 == y1), "edges run along rows or columns"
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), :x0] ^= True
    return inside


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_all_formats_of_masks_have_the_same_pixels(pixels: np.ndarray) -> None:
    if not pixels.any():
        return
    frames = [FrameMasks(0.5, 0.4, 3, (mask_of(pixels),)), FrameMasks(1.5, 1.4, 9, ())]
    expected = pixels.astype(bool)
    document = json.loads(written("coco", frames))
    [annotation] = document["annotations"]
    assert annotation["segmentations"][1] is annotation["bboxes"][1] is annotation["areas"][1] is None
    assert (coco.decode(annotation["segmentations"][0]) == expected).all()
    loose = json.loads(written("coco", frames, is_compressed=False))["annotations"][0]["segmentations"][0]
    assert (coco.decode(coco.frPyObjects(loose, *loose["size"])) == expected).all()
    [polygons] = json.loads(written("polygons", frames))["frames"][0]["masks"]
    assert (filled(polygons["polygons"], tuple(polygons["size"])) == expected).all()
    [row] = csv.DictReader(io.StringIO(written("csv", frames).decode()))
    size = [int(row["mask_height"]), int(row["mask_width"])]
    assert (coco.decode({"size": size, "counts": row["counts"].encode()}) == expected).all()
    [row] = csv.DictReader(io.StringIO(written("csv", frames, is_compressed=False).decode()))
    loose = {"size": size, "counts": [int(length) for length in row["counts"].split()]}
    assert (coco.decode(coco.frPyObjects(loose, *size)) == expected).all()
    with zipfile.ZipFile(io.BytesIO(written("png", frames))) as archive:
        name, table = archive.namelist()
        assert table == "masks.csv"
        picture = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert ((picture == 255) == expected).all()
    assert set(np.unique(picture)) <= {0, 255}


def test_coco_lists_each_label_once_with_its_category() -> None:
    one = np.eye(4, dtype=np.uint8)
    frames = [FrameMasks(0.5, 0.4, 3, (mask_of(one), mask_of(one, "siren, far"))), FrameMasks(1, 1, 9, (mask_of(one),))]
    document = json.loads(written("coco", frames))
    assert document["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "siren, far"}]
    assert [(a["category_id"], a["areas"]) for a in document["annotations"]] == [(1, [4, 4]), (2, [4, None])]
    assert document["videos"][0]["length"] == len(document["videos"][0]["file_names"]) == 2


def test_coco_is_bounded() -> None:
    formatter = formatter_of("coco", is_compressed=True, max_bytes=300)
    formatter.add(started())
    frame = FrameMasks(0.5, 0.4, 3, (mask_of(np.eye(4, dtype=np.uint8)),))
    formatter.add(frame)
    with pytest.raises(ServiceError, match="COCO") as failed:
        formatter.add(frame)
    assert failed.value.code == "answer_too_large"


def test_captions_are_in_order_and_escaped() -> None:
    assert written("vtt", []).decode() == (
        "WEBVTT\n\n1\n00:00:00.250 --> 00:00:01.500\n&lt;dog&gt; 2\n\n2\n01:01:01.500 --> 01:01:02.000\nsiren, far\n\n"
    )
    assert written("srt", []).decode().startswith("1\n00:00:00,250 --> 00:00:01,500\n<dog> 2\n\n2\n01:01:01,500")


def test_a_table_of_events() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", [], only="events").decode())))
    assert [(row["label"], row["track_id"], row["start_s"]) for row in rows] == [
        ("<dog>", "2", "0.25"),
        ("siren, far", "", "3661.5"),
    ]


@pytest.mark.parametrize("name", ["json", "polygons"])
def test_a_document_ends_with_its_events(name: str) -> None:
    document = json.loads(written(name, []))
    assert (document["frames"], document["clip"]["num_samples"]) == ([], 2)
    assert [event["label"] for event in document["events"]] == ["<dog>", "siren, far"]


def test_every_format_has_its_formatter_and_no_other_name_has_one() -> None:
    made = {name for name in FORMATS if name not in ("sse", "overlay")}
    kinds = {type(formatter_of(name, is_compressed=True, max_bytes=1)) for name in made}
    assert len(kinds) == len(made) - 1  # vtt and srt share theirs
    for name in ("sse", "overlay", "gif"):
        with pytest.raises(ValueError, match=name):
            formatter_of(name, is_compressed=True, max_bytes=1)
