"""Real pictures and recordings through the whole path: mp4 in, HTTP, RLE out.

    python -m service.bench.hearing.pictures --root DATA [--num-pictures 150] [--json FILE]

Each pair of `model.evaluation.picture_pairs` becomes a clip of two seconds: the picture stands still and its second of
sound is heard twice. Only the last sample is asked for; its masks are compared with the picture's truth at the
picture's own size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from rich.console import Console

from model.data.mp4 import write_mp4
from model.data.pictures.frames import LabelledFrame, Pixels, read_picture
from model.data.pictures.index import Picture, PicturesIndex, read_index
from model.data.pictures.recordings import read_recording
from model.evaluation.picture_pairs import Pair, choose_pairs, choose_pictures, loudest_window
from model.evaluation.pictures import PairAnswer, PicturesFigures, compare_answer, count_answer
from model.network.preprocess import WINDOW_SAMPLES
from service.bench.processes import running_service
from service.client.connect import open_client
from service.client.grpc_client import GrpcClient
from service.client.rest import RestClient
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks
from service.settings import Settings

FRAME_RATE = Fraction(10)
NUM_FRAMES = 20
# Samples at 15/32 s and every half second: the last one, 1.97 s, is the only one of this part.
OPTIONS = SegmentOptions(fps=2, start_s=1.5)


def write_pair(path: Path, frame: Pixels, pair: Pair) -> None:
    """Write a pair as a clip."""
    silence = np.zeros(WINDOW_SAMPLES, np.float32)
    window = silence if pair.recording is None else loudest_window(read_recording(pair.recording.path))
    frames = (frame for _ in range(NUM_FRAMES))
    write_mp4(path, frames=frames, frame_rate=FRAME_RATE, waveform=np.tile(window, 2).astype(np.float32))


def classes_of(frame: FrameMasks, kinds: Sequence[str], size: tuple[int, int]) -> Pixels:
    """(H, W) uint8: 1 + kind where the answer marks it, 0 elsewhere."""
    classes = np.zeros(size, np.uint8)
    for mask in frame.masks:
        region = coco_mask.decode({"size": list(mask.segmentation.size), "counts": mask.segmentation.counts})
        classes[region.astype(bool)] = 1 + kinds.index(mask.label)
    return classes


def crop_to_even(labelled: LabelledFrame) -> LabelledFrame:
    """Drop the last row or column of odd sides, which yuv420p does not have."""
    height, width = (side // 2 * 2 for side in labelled.classes.shape)
    return LabelledFrame(
        np.ascontiguousarray(labelled.frame[:height, :width]), np.ascontiguousarray(labelled.classes[:height, :width])
    )


def answer_pairs(
    client: RestClient | GrpcClient, index: PicturesIndex, folder: Path, picture: Picture
) -> list[PairAnswer]:
    """Post the pairs of a picture one after the other."""
    labelled = crop_to_even(read_picture(picture))
    answers = []
    for number, pair in enumerate(choose_pairs(picture, labelled.classes, index)):
        path = folder / f"{picture.path.stem}-{number}.mp4"
        write_pair(path, labelled.frame, pair)
        frame = client.segment(path, OPTIONS).frames[-1]
        path.unlink()
        answer = classes_of(frame, index.kinds, labelled.classes.shape[:2])
        answers.append(compare_answer(pair, labelled.frame, labelled.classes, answer, index))
    return answers


def service_url(stack: ExitStack, *, url: str | None, checkpoint: Path | None) -> str:
    """Return `url`, or the address of a service that runs until the stack is closed."""
    if url is not None:
        return url
    chosen: dict[str, Any] = {"checkpoint": checkpoint}
    return f"http://127.0.0.1:{stack.enter_context(running_service(Settings(**chosen))).http_port}"


def measure(url: str, index: PicturesIndex, pictures: Sequence[Picture], *, workers: int) -> dict[str, Any]:
    """Figures of the service at `url`; the same as those of `avesformer evaluate --data pictures`."""
    figures = PicturesFigures(index.kinds)
    with tempfile.TemporaryDirectory() as folder, open_client(url) as client, ThreadPoolExecutor(workers) as pool:
        answers = pool.map(partial(answer_pairs, client, index, Path(folder)), pictures)
        for entry in chain.from_iterable(answers):
            count_answer(figures, entry, index)
    return figures.summary()


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every measurement on pictures and recordings asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of pictures and recordings")
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument("--checkpoint", type=Path, help="of the service that is started; default: the shipped lite")
    parser.add_argument("--url", help="of a running service; without it one is started")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


def show_figures(figures: dict[str, Any], path: Path | None) -> None:
    """Print figures as JSON, and write them to `path` if there is one."""
    text = json.dumps(figures, indent=2)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
    Console().print_json(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the figures."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--num-pictures", type=int, help="at most so many, evenly spread")
    parser.add_argument("--workers", type=int, default=2, help="pictures under way at a time")
    given = parser.parse_args(arguments)
    index = read_index(given.root)
    pictures = choose_pictures(index, split=given.split, num_pictures=given.num_pictures)
    with ExitStack() as stack:
        url = service_url(stack, url=given.url, checkpoint=given.checkpoint)
        figures = measure(url, index, pictures, workers=given.workers)
    show_figures(figures, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
