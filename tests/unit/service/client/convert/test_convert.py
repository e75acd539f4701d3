"""Converters of answers: every mask comes back as the same pixels, by each tool's own decoder where it is installed."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as Xml
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO

from service.client.answer import Answer
from service.client.convert import arrays, cvat, label_studio
from service.client.convert.fiftyone_labels import detection_fields, to_fiftyone
from service.client.convert.supervision import to_detections
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary

HEIGHT, WIDTH = 48, 64
MODEL = ModelInfo("tiny", "sha256:0", ("dog", "cat"), None)


def mask_of(pixels: np.ndarray, label: str = "dog", track_id: int | None = None) -> Mask:
    rle = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    ys, xs = np.nonzero(pixels)
    box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    segmentation = Rle((HEIGHT, WIDTH), rle["counts"].decode())
    return Mask(label, 0.75, int(pixels.sum()), box, segmentation, track_id)


def shapes() -> list[np.ndarray]:
    """A single pixel, all pixels, noise, a ring with a hole, long runs, corners."""
    rng = np.random.default_rng(7)
    single, full = np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool)
    single[HEIGHT - 1, WIDTH - 1] = True
    ring = np.zeros_like(single)
    ring[10:40, 5:60] = True
    ring[20:30, 20:40] = False
    corners = np.zeros_like(single)
    corners[0, 0] = corners[0, -1] = corners[-1, 0] = True
    return [single, full, rng.random((HEIGHT, WIDTH)) > 0.5, ring, corners]


def answer_of(*frames: tuple[Mask, ...]) -> Answer:
    options = SegmentOptions().resolve(MODEL)
    made = tuple(FrameMasks(at + 0.9375, at + 0.92, 25 * at + 23, masks) for at, masks in enumerate(frames))
    clip = ClipInfo(WIDTH, HEIGHT, "1:1", float(len(frames)), 25.0, len(frames))
    return Answer("id", MODEL, clip, options, made, Summary(len(frames)), (SoundEvent("dog", None, 0.0, 1.0, 9, 0.7),))


@pytest.fixture(name="answer")
def _answer() -> Answer:
    single, full, noise, ring, corners = map(mask_of, shapes())
    return answer_of((single,), (), (full, mask_of(shapes()[3], "cat")), (noise,), (ring,), (corners,))


@pytest.mark.parametrize("number", range(5))
def test_pixels(number):
    pixels = shapes()[number]
    assert (arrays.mask_pixels(mask_of(pixels)) == pixels).all()
    runs = arrays.row_runs(pixels)
    assert sum(runs) == pixels.size
    assert (np.repeat(np.arange(len(runs)) % 2, runs).reshape(pixels.shape) == pixels).all()


def test_frames_without_masks_have_a_shape(answer):
    assert arrays.frame_pixels(answer.frames[1], height=HEIGHT, width=WIDTH).shape == (0, HEIGHT, WIDTH)
    assert arrays.frame_pixels(answer.frames[2], height=HEIGHT, width=WIDTH).shape == (2, HEIGHT, WIDTH)


def test_tracks_are_in_the_order_of_labels_and_numbers():
    pixels = shapes()[3]
    answer = answer_of((mask_of(pixels, "cat", 2), mask_of(pixels, "dog", 1)), (mask_of(pixels, "dog", 0),))
    assert [(track.name, [at for at, _ in track.masks]) for track in answer.tracks] == [
        ("dog 0", [1]),
        ("dog 1", [0]),
        ("cat 2", [0]),
    ]


@pytest.mark.parametrize("is_compressed", [True, False])
def test_coco_has_the_pixels_of_each_sample(answer, is_compressed):
    document = answer.to_coco(is_compressed=is_compressed)
    for track, annotation in zip(answer.tracks, document["annotations"], strict=True):
        wanted = dict(track.masks)
        for at, found in enumerate(annotation["segmentations"]):
            if found is None:
                assert at not in wanted
                continue
            rle = found if is_compressed else coco.frPyObjects(found, HEIGHT, WIDTH)
            assert (coco.decode(rle) == arrays.mask_pixels(wanted[at])).all()


def test_coco_results_are_read_by_its_tools(answer):
    data_set = COCO()
    data_set.dataset = answer.to_coco_images()
    data_set.createIndex()
    results = data_set.loadRes(answer.to_coco_results())
    assert [len(results.getAnnIds(imgIds=number)) for number in results.getImgIds()] == [1, 0, 2, 1, 1, 1]
    masks = [mask for frame in answer.frames for mask in frame.masks]
    for mask, held in zip(masks, results.dataset["annotations"], strict=True):
        assert (results.annToMask(held) == arrays.mask_pixels(mask)).all()
        assert (held["area"], held["score"], tuple(held["bbox"])) == (mask.area, mask.score, mask.bbox)
        assert results.loadCats(held["category_id"])[0]["name"] == mask.label


def test_coco_results_of_another_data_set_have_its_ids(answer):
    found = answer.to_coco_results(image_ids=[70, 71, 72, 73, 74, 75], category_ids={"cat": 17})
    assert [(entry["image_id"], entry["category_id"]) for entry in found] == [(72, 17)]
    with pytest.raises(ValueError, match="1 image ids for an answer of 6 frames"):
        answer.to_coco_results(image_ids=[70])


def test_coco_images_repeat_frames_and_have_the_size_of_the_masks():
    counts = coco.encode(np.ones((4, 6), np.uint8, "F"))["counts"].decode()
    small = Mask("dog", 0.5, 24, (0, 0, 6, 4), Rle((4, 6), counts))
    frames = tuple(FrameMasks(at / 50, 0.0, 7, (small,)) for at in range(2))
    plain = answer_of((), ())
    document = replace(plain, frames=frames).to_coco_images()
    assert [(image["id"], image["file_name"]) for image in document["images"]] == [(1, "000007.png"), (2, "000007.png")]
    assert {(image["height"], image["width"]) for image in document["images"]} == {(4, 6)}
    assert plain.to_coco_images()["images"][0] == {"id": 1, "file_name": "000023.png", "height": HEIGHT, "width": WIDTH}
    assert plain.to_coco_results() == []


@pytest.mark.parametrize("number", range(5))
def test_cvat_reads_its_masks(number):
    tool = pytest.importorskip("cvat_sdk.masks", reason="pip install cvat-sdk")
    pixels = shapes()[number]
    points = cvat.mask_points(mask_of(pixels))
    assert points == tool.encode_mask(pixels)
    assert (tool.decode_mask(points, image_width=WIDTH, image_height=HEIGHT) == pixels).all()


def test_cvat_xml_has_an_image_per_sample_and_its_masks(answer):
    root = Xml.fromstring(cvat.to_cvat_xml(answer))
    images = root.findall("image")
    assert [image.get("name") for image in images] == [f"{frame.index:06d}.png" for frame in answer.frames]
    for image, frame in zip(images, answer.frames, strict=True):
        assert (image.get("width"), image.get("height")) == (str(WIDTH), str(HEIGHT))
        for element, mask in zip(image.findall("mask"), frame.masks, strict=True):
            x, y, width, height = (int(element.get(name)) for name in ("left", "top", "width", "height"))
            runs = [int(run) for run in element.get("rle").split(", ")]
            pixels = np.zeros((HEIGHT, WIDTH), bool)
            pixels[y : y + height, x : x + width] = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
            assert (pixels == arrays.mask_pixels(mask)).all()
            assert element.get("label") == mask.label


@pytest.mark.parametrize("number", range(5))
def test_label_studio_reads_its_masks(number):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="pip install label-studio-sdk")
    pixels = shapes()[number]
    decoded = brush.decode_rle(label_studio.brush_runs(pixels)).reshape(HEIGHT, WIDTH, 4)
    assert (decoded == 255 * pixels[..., None]).all()


def test_long_runs_are_split_for_label_studio():
    """Runs of over 65536 values, decoded here as the format says."""
    pixels = np.zeros((300, 400), bool)
    pixels[100:250] = True
    bits = "".join(f"{byte:08b}" for byte in label_studio.brush_runs(pixels))
    num, at, out = int(bits[:32], 2), 32 + 5 + 16, []
    while len(out) < num:
        assert bits[at] == "1"
        size = (3, 4, 8, 16)[int(bits[at + 1 : at + 3], 2)]
        length = int(bits[at + 3 : at + 3 + size], 2) + 1
        out += [int(bits[at + 3 + size : at + 11 + size], 2)] * length
        at += 11 + size
    assert (np.reshape(out, (300, 400, 4)) == 255 * pixels[..., None]).all()


def test_label_studio_tasks_name_their_frames(answer):
    tasks = label_studio.to_label_studio(answer, url_of=lambda frame: f"/frames/{frame.index}.png")
    named = [f"/frames/{frame.index}.png" for frame in answer.frames if frame.masks]
    assert [task["data"]["image"] for task in tasks] == named
    results = tasks[1]["predictions"][0]["result"]
    assert [result["value"]["brushlabels"] for result in results] == [["dog"], ["cat"]]
    assert all((result["original_width"], result["original_height"]) == (WIDTH, HEIGHT) for result in results)


def test_supervision_keeps_masks_boxes_and_names(answer):
    tool = pytest.importorskip("supervision", reason="pip install supervision")
    for frame in answer.frames:
        found = to_detections(frame, answer)
        assert len(found) == len(frame.masks)
        for at, mask in enumerate(frame.masks):
            assert (found.mask[at] == arrays.mask_pixels(mask)).all()
            assert found.data["class_name"][at] == mask.label
        if frame.masks:
            assert (found.xyxy == tool.mask_to_xyxy(found.mask)).all()
            assert found.confidence.tolist() == [mask.score for mask in frame.masks]


def test_fiftyone_fields_place_the_mask_in_its_box():
    pixels = shapes()[3]
    fields = detection_fields(mask_of(pixels, track_id=4))
    x, y, width, height = fields["bounding_box"]
    left, top = round(x * WIDTH), round(y * HEIGHT)
    again = np.zeros((HEIGHT, WIDTH), bool)
    again[top : top + round(height * HEIGHT), left : left + round(width * WIDTH)] = fields["mask"]
    assert (again == pixels).all()
    assert (fields["label"], fields["index"]) == ("dog", 4)


@pytest.mark.parametrize("number", range(5))
def test_fiftyone_reads_its_masks(number):
    tool = pytest.importorskip("fiftyone", reason="pip install fiftyone (1.1 GB with a database, and an older OpenCV)")
    pixels = shapes()[number]
    detection = tool.Detection(**detection_fields(mask_of(pixels)))
    assert (detection.to_segmentation(frame_size=(WIDTH, HEIGHT), target=1).mask == pixels).all()


def test_a_missing_tool_is_named(answer, monkeypatch):
    for name in ("supervision", "fiftyone", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    for convert in (lambda: to_detections(answer.frames[0], answer), lambda: to_fiftyone(answer), answer.plot):
        with pytest.raises(ServiceError, match="pip install"):
            convert()


def test_a_plot_has_a_curve_per_track_and_a_span_per_event(answer):
    matplotlib = pytest.importorskip("matplotlib", reason="pip install matplotlib")
    matplotlib.use("agg")
    axes = answer.plot(value="score")
    assert [line.get_label() for line in axes.get_lines()] == ["dog", "cat"]
    assert list(axes.get_lines()[0].get_ydata()) == [0.75, 0.0, 0.75, 0.75, 0.75, 0.75]
    assert len(axes.patches) == 1
