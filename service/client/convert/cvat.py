"""CVAT: masks as its own run lengths, and "CVAT for images 1.1" XML.

A mask is its box and the run lengths of the pixels in the box, in row order and zeros first.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as Xml

from service.client.answer import Answer
from service.client.convert.arrays import mask_pixels, row_runs
from service.domain.result import FrameMasks, Mask

NameOf = Callable[[FrameMasks], str]


def mask_points(mask: Mask) -> list[int]:
    """Return the `points` of a CVAT shape of type `mask`: run lengths in the box, then its corners, both inclusive."""
    x, y, width, height = mask.bbox
    runs = row_runs(mask_pixels(mask)[y : y + height, x : x + width])
    return [*runs, x, y, x + width - 1, y + height - 1]


def to_cvat_xml(answer: Answer, *, name_of: NameOf | None = None) -> str:
    """Return an answer as "CVAT for images 1.1": an image per sample, a mask per label.

    Args:
        answer: a whole answer.
        name_of: file name of a sample's frame in the CVAT task; `{index:06d}.png` by default.
    """
    name_of = name_of or (lambda frame: f"{frame.index:06d}.png")
    root = Xml.Element("annotations")
    Xml.SubElement(root, "version").text = "1.1"
    for number, frame in enumerate(answer.frames):
        size = (answer.clip.height, answer.clip.width)
        height, width = frame.masks[0].segmentation.size if frame.masks else size
        facts = {"id": number, "name": name_of(frame), "width": width, "height": height}
        image = Xml.SubElement(root, "image", {name: str(value) for name, value in facts.items()})
        for mask in frame.masks:
            _add_mask(image, mask)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True)


def _add_mask(image: Xml.Element, mask: Mask) -> None:
    *runs, left, top, right, bottom = mask_points(mask)
    facts = {
        "label": mask.label,
        "source": "auto",
        "occluded": 0,
        "rle": ", ".join(map(str, runs)),
        "left": left,
        "top": top,
        "width": right - left + 1,
        "height": bottom - top + 1,
        "z_order": 0,
    }
    element = Xml.SubElement(image, "mask", {name: str(value) for name, value in facts.items()})
    if mask.track_id is not None:
        Xml.SubElement(element, "attribute", {"name": "track_id"}).text = str(mask.track_id)
