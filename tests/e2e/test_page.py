"""The page at / and the reference at /docs, as a person's browser shows them."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from pycocotools import mask as coco
from support.clients.browser import Browser
from support.servers.service_process import ServiceProcess

from service.bench.hearing.rotation import rotated

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
CLIP = Path(__file__).parents[1] / "assets" / "synthetic.mp4"
STATUS = "document.getElementById('status').textContent"
DONE = f"{STATUS}.includes('Play the clip')"
NEXT_FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
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
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, url: str) -> Iterator[Browser]:
    """The page, freshly opened; what it complained of or asked of other hosts fails the test."""
    started.complaints.clear()
    started.requests.clear()
    started.open(f"{url}/")
    yield started
    # reading a canvas back is this test's doing
    assert [text for text in started.complaints if "willReadFrequently" not in text] == []
    assert [asked for asked in started.requests if not asked.startswith((url, "data:", "blob:"))] == []


def click(browser: Browser, name: str) -> None:
    browser.value_of(f"document.getElementById('{name}').click()")


def drop(browser: Browser, path: Path = CLIP) -> None:
    browser.drop_file("#drop", path)
    browser.wait_for(DONE)


def seek(browser: Browser, time_s: float) -> int:
    """Go to a time; returns how many pixels are painted then."""
    browser.value_of(f"document.getElementById('video').currentTime = {time_s}")
    browser.wait_for("!document.getElementById('video').seeking")
    browser.value_of(NEXT_FRAME)
    return int(browser.value_of(NUM_PAINTED))


def saved(browser: Browser, name: str) -> bytes:
    """Download the answer in a format; its bytes."""
    browser.value_of(f"document.getElementById('format').value = '{name}'")
    click(browser, "download")
    file_name = browser.wait_for(f"{STATUS}.startsWith('Saved ') && {STATUS}").removeprefix("Saved ").rstrip(".")
    browser.value_of("document.getElementById('status').textContent = ''")
    path = browser.downloads / file_name
    browser.wait_until(path.exists)
    return path.read_bytes()


def answered(url: str, name: str = "json") -> bytes:
    import httpx

    with CLIP.open("rb") as clip:
        sent = httpx.post(
            f"{url}/v1/segment",
            params={"fps": 5, "format": name},
            content=clip.read(),
            headers={"Content-Type": "video/mp4"},
            timeout=60,
        )
    assert sent.status_code == 200
    return sent.content


def test_a_dropped_clip_has_labelled_masks_over_every_frame(browser: Browser, url: str) -> None:
    drop(browser)
    assert browser.value_of(STATUS).startswith("25 samples in ")
    frames = json.loads(answered(url))["frames"]
    assert len(frames) == 25
    for frame in frames:
        painted = seek(browser, frame["sample_time_s"])
        assert bool(painted) == bool(frame["masks"])
    assert any(frame["masks"] for frame in frames)
    assert browser.value_of("document.querySelector('#legend .label').textContent") == "sounding"
    assert browser.value_of("document.querySelectorAll('#events li').length") == len(
        json.loads(answered(url))["events"]
    )


def test_a_label_is_muted_and_shown_alone(browser: Browser) -> None:
    drop(browser)
    shown_at = browser.value_of("2.0")
    painted = seek(browser, shown_at)
    assert painted > 0
    press = "document.querySelector('#legend button[aria-label=\"{} sounding\"]').click()"
    browser.value_of(press.format("Mute"))
    browser.value_of(NEXT_FRAME)
    assert browser.value_of(NUM_PAINTED) == 0
    browser.value_of(press.format("Mute"))
    browser.value_of(press.format("Solo"))
    browser.value_of(NEXT_FRAME)
    assert browser.value_of(NUM_PAINTED) == painted


def test_views_draw_the_same_mask_differently(browser: Browser) -> None:
    drop(browser)
    fill = seek(browser, 2.0)
    painted = {"fill": fill}
    for view in ("outline", "spotlight"):
        browser.value_of(f"document.querySelector('[name=view][value={view}]').click()")
        browser.value_of(NEXT_FRAME)
        painted[view] = browser.value_of(NUM_PAINTED)
    assert 0 < painted["outline"] < painted["fill"]
    size = browser.value_of("(c => c.width * c.height)(document.getElementById('overlay'))")
    # the spotlight dims what is not in the mask, and keeps the mask's outline
    assert painted["spotlight"] >= size - painted["fill"]


def test_the_timeline_seeks_by_key_and_pointer_and_zooms(browser: Browser) -> None:
    drop(browser)
    browser.value_of("document.getElementById('timeline').focus()")
    browser.press("Home")
    times = [browser.value_of("document.getElementById('video').currentTime")]
    for _ in range(3):
        browser.press("ArrowRight")
        times.append(browser.value_of("document.getElementById('video').currentTime"))
    assert times[0] == 0
    assert np.diff(times[1:]) == pytest.approx([0.2, 0.2], abs=1e-3)
    said = browser.wait_for("document.getElementById('timeline').getAttribute('aria-valuetext')")
    assert said.split(": ")[1] in ("sounding", "nothing sounds")
    click(browser, "zoom-in")
    browser.click_at("#timeline", 0.5)
    zoomed = browser.wait_for("document.getElementById('video').currentTime")
    click(browser, "zoom-all")
    browser.click_at("#timeline", 0.5)
    browser.wait_for("Math.abs(document.getElementById('video').currentTime - 2.5) < 0.05")
    assert zoomed < 2.0


def test_every_format_is_downloaded(browser: Browser, url: str) -> None:
    drop(browser)
    names = browser.value_of("[...document.getElementById('format').options].map(option => option.value)")
    assert {"json", "coco", "png", "csv", "vtt"} < set(names)
    document = json.loads(answered(url))
    for name in names:
        data = saved(browser, name)
        assert data
        if name == "coco":
            (annotation,) = json.loads(data)["annotations"]
            masks = [
                mask and coco.decode({**mask, "counts": mask["counts"].encode()})
                for mask in annotation["segmentations"]
            ]
            wanted = [frame["masks"] for frame in document["frames"]]
            for pixels, entry in zip(masks, wanted, strict=True):
                assert (pixels is None) == (not entry)
                assert pixels is None or int(pixels.sum()) == entry[0]["area"]
        elif name == "png":
            assert data.startswith(b"PK")
        elif name == "overlay":
            with av.open(io.BytesIO(data)) as overlay:
                assert len(list(overlay.decode(video=0))) == 125
                assert overlay.streams.audio
        elif name not in ("json", "ndjson", "polygons"):  # these hold timings and request ids
            assert data == answered(url, name)


def test_two_thresholds_are_shown_side_by_side(browser: Browser) -> None:
    drop(browser)
    browser.value_of("document.getElementById('other-threshold').value = '0.9'")
    click(browser, "compare-threshold")
    browser.wait_for("document.querySelectorAll('#results li.done').length === 2")
    assert browser.value_of("document.getElementById('stage-b').hidden") is False
    seek(browser, 2.0)
    browser.wait_for("Math.abs(document.querySelector('#stage-b video').currentTime - 2) < 0.02")
    names = browser.value_of("[...document.querySelectorAll('.stage .name')].map(name => name.textContent)")
    assert names[0] == "synthetic.mp4: 5 a second"
    assert names[1] == "synthetic.mp4: 5 a second, threshold 0.9"
    browser.value_of(
        "(s => { s.value = ''; s.dispatchEvent(new Event('change')); })(document.getElementById('compare'))"
    )
    assert browser.value_of("document.getElementById('stage-b').hidden") is True


def test_the_example_is_one_click_away_and_clips_can_be_removed(browser: Browser) -> None:
    click(browser, "example")
    browser.wait_for(DONE)
    assert browser.value_of("document.querySelector('#results b').textContent") == "example.mp4"
    browser.value_of("document.querySelector('#results .drop').click()")
    assert browser.value_of("document.querySelectorAll('#results li').length") == 0
    assert browser.value_of("document.getElementById('viewer').hidden") is True


def test_several_clips_run_at_once(browser: Browser, tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"clip {number}.mp4"
        path.write_bytes(CLIP.read_bytes())
        browser.drop_file("#drop", path)
    browser.wait_for("document.querySelectorAll('#results li.done').length === 6")


def test_what_is_no_clip_is_said_and_the_page_goes_on(browser: Browser, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.mp4"
    wrong.write_text("Dear reader, this is no video.")
    browser.choose_file("#file", wrong)
    click(browser, "go")
    said = browser.wait_for(f"document.getElementById('status').classList.contains('error') && {STATUS}")
    assert "not an MP4" in said
    browser.choose_file("#file", CLIP)
    click(browser, "go")
    browser.wait_for(DONE)
    browser.complaints[:] = [text for text in browser.complaints if "415" not in text and "ERR_FILE" not in text]


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_the_window(browser: Browser, width: int) -> None:
    browser.look_like(width, 800)
    try:
        drop(browser)
        assert browser.value_of("document.documentElement.scrollWidth") <= width
    finally:
        browser.look_like(1280, 900)


def test_every_control_has_a_name_and_texts_stand_out(browser: Browser) -> None:
    """What a screen reader announces, from the browser's own accessibility tree; contrast of texts in both schemes."""
    drop(browser)
    wanted = {"button", "textbox", "spinbutton", "combobox", "slider", "radio", "tab", "link"}
    nodes = [node for node in browser.accessibility_tree() if node["role"]["value"] in wanted]
    assert len(nodes) > 20
    assert [node for node in nodes if not node["name"]["value"].strip()] == []
    contrast = """(() => {
      const style = getComputedStyle(document.documentElement);
      const light = (text) => {
        const [r, g, b] = text.trim().match(/\\w/g).length > 3
          ? text.trim().slice(1).match(/../g).map((part) => parseInt(part, 16))
          : text.trim().slice(1).split('').map((part) => 17 * parseInt(part, 16));
        const parts = [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const of = (one, other) => {
        const [a, b] = [light(style.getPropertyValue(one)), light(style.getPropertyValue(other))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      };
      const pairs = [['--ink', '--paper'], ['--ink', '--card'], ['--soft', '--paper'], ['--soft', '--card'],
                     ['--accent', '--paper'], ['--on-accent', '--accent'], ['--ink', '--wash']];
      return Math.min(...pairs.map(([one, other]) => of(one, other)));
    })()"""
    for is_dark in (False, True):
        browser.look_like(1280, 900, is_dark=is_dark)
        assert browser.value_of(contrast) >= 4.5  # WCAG 2.1, AA
    browser.look_like(1280, 900)


def test_where_keys_are_set_the_page_asks_for_one_and_sends_it(started: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(b'open sesame').hexdigest()} alice\n")
    with ServiceProcess(api_keys_file=keys) as service:
        started.open(f"{service.url}/")
        for key in ("", "open barley"):
            started.value_of(f"document.getElementById('key').value = '{key}'")
            started.value_of("document.getElementById('status').textContent = ''")
            started.choose_file("#file", CLIP)
            click(started, "go")
            assert "API key" in started.wait_for(f"{STATUS}.includes('API key') && {STATUS}")
        started.value_of("document.getElementById('key').value = 'open sesame'")
        started.choose_file("#file", CLIP)
        click(started, "go")
        started.wait_for(DONE)


def test_the_reference_lists_every_route_and_tries_one_with_an_upload(browser: Browser, url: str) -> None:
    browser.open(f"{url}/docs")
    browser.wait_for("document.querySelectorAll('.opblock').length")
    listed = browser.value_of("[...document.querySelectorAll('.opblock-summary')].map(entry => entry.textContent)")
    for route in ("POST/v1/segment", "POST/v1/jobs", "GET/v1/readyz", "GET/v1/metrics"):
        assert any(route in text.replace("\u200b", "") for text in listed), (route, listed)
    for button in (".opblock-post .opblock-summary-control", ".try-out__btn"):
        browser.wait_for(f"!!document.querySelector('{button}')")
        browser.value_of(f"document.querySelector('{button}').click()")
    browser.wait_for("!!document.querySelector('.opblock-body input[type=file]')")
    browser.choose_file(".opblock-body input[type=file]", CLIP)
    browser.value_of("document.querySelector('.execute').click()")
    answer = "document.querySelector('.live-responses-table .response')"
    shown = browser.wait_for(f"{answer} && {answer}.innerText.includes('num_samples') && {answer}.innerText")
    assert shown.startswith("200")
    assert '"num_samples": 5' in shown


def test_a_page_of_another_origin_uses_the_service_where_it_is_named(
    started: Browser, url: str, other_port: int
) -> None:
    script = ACROSS_ORIGINS.format(url=url)
    started.open(f"http://127.0.0.1:{other_port}/")
    found = started.value_of(script)
    assert found == {
        "frames": 5, "id": "from-afar", "job": 202, "known": 304, "erased": 204, "code": "not_mp4",
    }  # fmt: skip
    started.open(f"http://localhost:{other_port}/")  # another origin, which is not named
    refused = started.value_of(f"{script}.catch(error => error.name)")
    assert refused == "TypeError"
    assert any("CORS policy" in text for text in started.complaints)
    started.complaints.clear()


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


@pytest.mark.parametrize(
    ("codec", "degrees"), [("libx265", 0), ("mpeg4", 0), ("libx265", 90)], ids=["hevc", "mpeg4", "hevc upright"]
)
def test_masks_are_drawn_over_grey_where_the_picture_cannot_be_shown(
    browser: Browser, tmp_path: Path, codec: str, degrees: int
) -> None:
    """Codecs that the service decodes and Chromium does not; phones record HEVC on its side."""
    clip = tmp_path / "clip.mp4"
    reencode(CLIP, clip, codec)
    if degrees:
        clip.write_bytes(rotated(clip.read_bytes(), degrees))
    browser.drop_file("#drop", clip)
    assert "Move along the timeline" in browser.wait_for(f"{STATUS}.includes('Move along') && {STATUS}")
    assert browser.value_of("document.getElementById('blind').hidden") is False
    assert browser.value_of("getComputedStyle(document.getElementById('video')).display") == "none"
    assert browser.value_of("document.getElementById('overlay').getBoundingClientRect().height") > 50
    painted = set()
    for share in (0.02, 0.5, 0.98):
        browser.click_at("#timeline", share)
        browser.value_of(NEXT_FRAME)
        painted.add(browser.value_of(NUM_PAINTED))
    assert max(painted) > 0
    assert len(painted) > 1, "the time line changes what is drawn"
    drop(browser)
    assert browser.value_of("document.getElementById('blind').hidden") is True
