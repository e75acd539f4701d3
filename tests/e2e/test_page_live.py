"""The camera on the page, with Chromium's fake devices, which show and play a clip."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import pytest
from support.clients.browser import Browser
from support.servers.service_process import ServiceProcess

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
CLIP = Path(__file__).parents[1] / "assets" / "synthetic.mp4"
NUM_PAINTED = """(() => {
  const canvas = document.getElementById('live-overlay');
  if (!canvas.width) return 0;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, at) => at % 4 === 3 && value > 0).length;
})()"""
STATUS = "document.getElementById('live-status').textContent"


def fake_devices(folder: Path) -> tuple[str, ...]:
    """Flags for a camera and a microphone that repeat the clip."""
    picture, sound = folder / "camera.y4m", folder / "microphone.wav"
    with av.open(str(CLIP)) as clip, picture.open("wb") as file:
        stream = clip.streams.video[0]
        file.write(f"YUV4MPEG2 W{stream.width} H{stream.height} F{int(stream.average_rate)}:1 Ip A1:1 C420\n".encode())
        for frame in clip.decode(stream):
            file.write(b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes())
    with av.open(str(CLIP)) as clip, wave.open(str(sound), "wb") as out:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
        out.setparams((1, 2, 48_000, 0, "NONE", ""))
        for frame in clip.decode(clip.streams.audio[0]):
            for mono in resampler.resample(frame):
                out.writeframes(mono.to_ndarray().tobytes())
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={picture}",
        f"--use-file-for-fake-audio-capture={sound}",
    )


def test_the_camera_shows_live_masks_and_stops(tmp_path: Path) -> None:
    with ServiceProcess() as service, Browser(tmp_path / "profile", flags=fake_devices(tmp_path)) as browser:
        browser.open(f"{service.url}/")
        browser.value_of("document.getElementById('tab-live').click()")
        browser.value_of("document.getElementById('live-start').click()")
        browser.wait_for(f"{STATUS} === 'Listening and looking.'")
        assert browser.wait_for(NUM_PAINTED) > 0
        assert "pictures a second" in browser.value_of("document.getElementById('live-figures').textContent")
        assert browser.value_of("document.querySelector('#live-legend .label').textContent") == "sounding"
        browser.value_of("document.getElementById('live-instances').click()")
        browser.wait_for("document.querySelector('#live-legend .label')?.textContent.startsWith('sounding ')")
        browser.value_of("document.getElementById('live-stop').click()")
        assert browser.value_of(STATUS) == "Stopped."
        assert browser.value_of("document.getElementById('camera').srcObject.active") is False
        browser.value_of("document.getElementById('live-start').click()")
        browser.wait_for(f"{STATUS} === 'Listening and looking.'")
        socket = service.url.replace("http:", "ws:")
        others = [asked for asked in browser.requests if not asked.startswith((service.url, socket, "data:", "blob:"))]
        assert others == []
        assert [text for text in browser.complaints if "willReadFrequently" not in text] == []
        service.terminate()
        browser.wait_for("document.getElementById('live-status').classList.contains('error')")


def test_without_a_camera_the_page_says_so(tmp_path: Path) -> None:
    with ServiceProcess() as service, Browser(tmp_path) as browser:
        browser.open(f"{service.url}/")
        browser.value_of("document.getElementById('tab-live').click()")
        browser.value_of("document.getElementById('live-start').click()")
        said = browser.wait_for(f"document.getElementById('live-status').classList.contains('error') && {STATUS}")
        assert "camera" in said
