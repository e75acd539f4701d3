"""The page at / and the reference at /docs, as a person's browser shows them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from support.browser import Browser
from support.service_process import ServiceProcess

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
CLIP = Path(__file__).parents[1] / "assets" / "synthetic.mp4"
STATUS = "document.getElementById('status').textContent"
NUM_PAINTED = """(() => {
  const canvas = document.getElementById('overlay');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, at) => at % 4 === 3 && value > 0).length;
})()"""


# What a page of another origin does: a request with a preflight, a job, its result again, and their headers.
ACROSS_ORIGINS = """(async () => {{
  const clip = await (await fetch('/clip.mp4')).blob();
  const headers = {{'Content-Type': 'video/mp4', 'X-Request-Timeout': '60', 'X-Request-ID': 'from-afar'}};
  const asked = await fetch('{url}/v1/segment', {{method: 'POST', body: clip, headers}});
  const frames = (await asked.json()).frames.length;
  const job = await fetch('{url}/v1/jobs', {{method: 'POST', body: clip, headers}});
  const place = '{url}' + job.headers.get('Location');
  while (!['done', 'failed'].includes((await (await fetch(place)).json()).state)) ;
  const etag = (await fetch(place + '/result')).headers.get('ETag');
  const known = await fetch(place + '/result', {{headers: {{'If-None-Match': etag}}}});
  const refused = await fetch('{url}/v1/segment', {{method: 'POST', body: 'no clip', headers}});
  const erased = await fetch(place, {{method: 'DELETE'}});
  return {{frames, id: asked.headers.get('X-Request-ID'), job: job.status, known: known.status, erased: erased.status,
    code: (await refused.json()).code}};
}})()"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def other_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of another site, which has the clip."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>another site</title>")
    (folder / "clip.mp4").write_bytes(CLIP.read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def url(other_port: int) -> Iterator[str]:
    with ServiceProcess(cors_origins=f"http://127.0.0.1:{other_port}") as service:
        yield service.url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def go(browser: Browser, path: Path) -> None:
    browser.choose_file("#file", path)
    browser.wait_for("!document.getElementById('go').disabled")
    browser.value_of("document.getElementById('go').click()")


def test_a_clip_is_answered_on_the_page(browser: Browser, url: str) -> None:
    browser.open(f"{url}/")
    go(browser, CLIP)
    assert browser.wait_for(f"{STATUS}.includes('Play the clip') && {STATUS}").startswith("25 samples in ")
    assert browser.wait_for(NUM_PAINTED) > 0
    assert browser.value_of("document.getElementById('timeline').hidden") is False
    assert browser.value_of("document.getElementById('links').hidden") is False
    assert browser.value_of("document.getElementById('download').href").startswith("blob:")
    assert browser.complaints == []


def test_what_is_no_clip_is_said_and_the_page_goes_on(browser: Browser, url: str, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.mp4"
    wrong.write_text("Dear reader, this is no video.")
    browser.open(f"{url}/")
    go(browser, wrong)
    said = browser.wait_for(f"document.getElementById('status').classList.contains('error') && {STATUS}")
    assert "not an MP4" in said
    go(browser, CLIP)
    browser.wait_for(f"{STATUS}.includes('Play the clip')")
    assert [text for text in browser.complaints if "415" not in text] == []
    browser.complaints.clear()


def test_the_reference_lists_every_route(browser: Browser, url: str) -> None:
    browser.open(f"{url}/docs")
    browser.wait_for("document.querySelectorAll('details').length")
    listed = browser.value_of("[...document.querySelectorAll('summary')].map(entry => entry.textContent)")
    for route in ("POST/v1/segment", "POST/v1/jobs", "GET/v1/readyz", "GET/v1/metrics"):
        assert any(route in text.replace(" ", "") for text in listed), (route, listed)
    assert browser.complaints == []


def test_a_page_of_another_origin_uses_the_service_where_it_is_named(
    browser: Browser, url: str, other_port: int
) -> None:
    script = ACROSS_ORIGINS.format(url=url)
    browser.open(f"http://127.0.0.1:{other_port}/")
    found = browser.value_of(script)
    assert found == {
        "frames": 5, "id": "from-afar", "job": 202, "known": 304, "erased": 204, "code": "not_mp4",
    }  # fmt: skip
    browser.open(f"http://localhost:{other_port}/")  # another origin, which is not named
    refused = browser.value_of(f"{script}.catch(error => error.name)")
    assert refused == "TypeError"
    assert any("CORS policy" in text for text in browser.complaints)
    browser.complaints.clear()


def reencode(source: Path, target: Path, codec: str) -> None:
    """Write the clip with its picture in another codec and its sound as it is."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        picture, sound = clip.streams.video[0], clip.streams.audio[0]
        rate = picture.average_rate
        encoder = out.add_stream(codec, rate=rate, width=picture.width, height=picture.height, pix_fmt="yuv420p")
        copied = out.add_stream_from_template(sound)
        for packet in clip.demux(picture, sound):
            if packet.stream is sound:
                if packet.dts is not None:
                    packet.stream = copied
                    out.mux(packet)
                continue
            for frame in packet.decode():
                out.mux(encoder.encode(frame.reformat(format="yuv420p")))
        out.mux(encoder.encode())


@pytest.mark.parametrize("codec", ["libx265", "mpeg4"])
def test_masks_are_drawn_over_grey_where_the_picture_cannot_be_shown(
    browser: Browser, url: str, tmp_path: Path, codec: str
) -> None:
    """Codecs that the service decodes and Chromium does not."""
    clip = tmp_path / "clip.mp4"
    reencode(CLIP, clip, codec)
    browser.open(f"{url}/")
    go(browser, clip)
    assert "Move the slider" in browser.wait_for(f"{STATUS}.includes('Move the slider') && {STATUS}")
    assert browser.value_of("document.getElementById('blind').hidden") is False
    assert browser.value_of("getComputedStyle(document.getElementById('video')).display") == "none"
    assert browser.value_of("document.getElementById('overlay').getBoundingClientRect().height") > 50
    slide = "const seek = document.getElementById('seek'); seek.value = {}; seek.dispatchEvent(new Event('input'))"
    painted = set()
    for share in ("seek.min", "seek.max / 2", "seek.max"):
        browser.value_of(f"(() => {{ {slide.format(share)} }})()")
        browser.value_of("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        painted.add(browser.value_of(NUM_PAINTED))
    assert max(painted) > 0
    assert len(painted) > 1, "the slider changes what is drawn"
    go(browser, CLIP)
    browser.wait_for(f"{STATUS}.includes('Play the clip')")
    assert browser.value_of("document.getElementById('blind').hidden") is True
    browser.complaints.clear()
