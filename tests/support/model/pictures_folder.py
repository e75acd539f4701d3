"""Write a small folder of pictures with masks and recordings: discs that hum, squares that hiss."""

import csv
import json
import wave
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

KINDS = ("dog", "train")
COLOURS = {"dog": (220, 60, 40), "train": (40, 80, 220)}
SIZE_PX = (80, 96)  # height, width


def write_pictures_folder(root: Path, *, per_kind: int = 3) -> Path:
    """Write pictures, recordings, cut-outs and backgrounds for both splits; return `root`."""
    for folder in ("pictures", "recordings", "cutouts", "backgrounds"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    recordings = []
    for split in ("train", "val"):
        for number in range(per_kind):
            for kind_id, kind in enumerate(KINDS, start=1):
                name = f"{kind}-{split}-{number}.jpg"
                mask = _mask(kind, random)
                pixels = random.integers(90, 130, (*SIZE_PX, 3))
                pixels[mask] = COLOURS[kind]
                _write_picture(root / "pictures" / name, pixels)
                images.append(_image(len(images) + 1, name, split))
                annotations.append(_annotation(len(annotations) + 1, len(images), kind_id, mask))
                file = f"{kind}-{split}-{number}.wav"
                write_wav(root / "recordings" / file, sound(kind, random))
                recordings.append({"file": file, "kind": kind, "split": split, "group": file})
        file = f"ambience-{split}.wav"
        write_wav(root / "recordings" / file, 0.05 * random.standard_normal(24_000))
        recordings.append({"file": file, "kind": "ambience", "split": split, "group": file})
    categories = [{"id": number, "name": kind} for number, kind in enumerate(KINDS, start=1)]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(table))
    with (root / "recordings" / "recordings.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file", "kind", "split", "group"])
        writer.writeheader()
        writer.writerows(recordings)
    _write_cutout(root)
    _write_picture(root / "backgrounds" / "wall.jpg", random.integers(90, 130, (*SIZE_PX, 3)))
    return root


def sound(kind: str, random: np.random.Generator) -> np.ndarray:
    """1.5 s at 16 kHz: a hum with harmonics for a dog, a hiss for a train."""
    times = np.arange(24_000) / 16_000
    if kind == "dog":
        pitch = random.uniform(180, 260)
        return 0.3 * sum(np.sin(2 * np.pi * pitch * order * times) / order for order in range(1, 6))
    return 0.2 * np.diff(random.standard_normal(24_001))


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


def _mask(kind: str, random: np.random.Generator) -> np.ndarray:
    height, width = SIZE_PX
    mask = np.zeros(SIZE_PX, np.uint8)
    x, y = int(random.integers(25, width - 25)), int(random.integers(25, height - 25))
    if kind == "dog":
        cv2.circle(mask, (x, y), 18, 1, -1)
    else:
        cv2.rectangle(mask, (x - 18, y - 14), (x + 18, y + 14), 1, -1)
    return mask.astype(bool)


def _image(number: int, name: str, split: str) -> dict[str, Any]:
    height, width = SIZE_PX
    return {"id": number, "file_name": name, "height": height, "width": width, "split": split, "source": "drawn"}


def _annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": code["size"], "counts": code["counts"].decode()}
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "ignore": 0}


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])


def _write_cutout(root: Path) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    cv2.circle(pixels, (20, 20), 18, (40, 60, 220, 255), -1)
    assert cv2.imwrite(str(root / "cutouts" / "dog.png"), pixels)
    (root / "cutouts.json").write_text(json.dumps([{"file": "dog.png", "kind": "dog", "split": "train"}]))
