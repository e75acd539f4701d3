"""A headless chromium, driven over its debugging pipe (Chrome DevTools Protocol): no driver and no library needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium")
_GUARD_S = float(os.environ.get("BROWSER_GUARD_S", "120"))


class Browser:
    """One page in a browser of its own; `with` ends it.

    What the page complains of is kept in `complaints`, the URLs that it asked for in `requests`, what it saved under
    `downloads`.

    Args:
        folder: of the browser's profile; made where it is missing.
        flags: further arguments of the browser, such as fake devices.
    """

    def __init__(self, folder: Path, *, flags: tuple[str, ...] = ()) -> None:
        assert BINARY is not None, "chromium is needed: apt-get install chromium"
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.downloads = folder / "downloads"
        self._num_calls = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._session = ""
        to_read, self._write_fd = os.pipe()
        self._read_fd, to_write = os.pipe()
        options = (
            f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir={folder} {' '.join(flags)}"
        )
        line = f"exec {BINARY} {options} --remote-debugging-pipe about:blank 3<&{to_read} 4>&{to_write}"
        self._process = subprocess.Popen(
            ["bash", "-c", line], pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Browser:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self._call(f"{domain}.enable")
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join(_GUARD_S)
        os.close(self._write_fd)
        os.close(self._read_fd)

    def open(self, url: str) -> None:
        """Show a page; returns when it is loaded."""
        self.value_of("window.isLeft = true")
        self._call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && !window.isLeft")

    def value_of(self, script: str) -> Any:
        """What an expression is in the page."""
        reply = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The expression's value as soon as it is true."""
        return _soon(lambda: self.value_of(script), what=script)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a file input, as a person would."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop_file(self, selector: str, path: Path) -> None:
        """Drag a file onto an element and let it go, as a person would."""
        x, y = self._point_in(selector, 0.5)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click_at(self, selector: str, share: float) -> None:
        """Click into an element, at a share of its width."""
        x, y = self._point_in(selector, share)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def accessibility_tree(self) -> list[dict[str, Any]]:
        """The nodes that a screen reader sees, as the DevTools protocol describes them."""
        nodes: list[dict[str, Any]] = self._call("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node["ignored"]]

    def wait_until(self, look: Callable[[], Any]) -> None:
        """Wait until a look outside of the page finds something."""
        _soon(look, what="a look outside of the page")

    def press(self, key: str) -> None:
        """Press a key on the element that has the focus."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    def look_like(self, width: int, height: int, *, is_dark: bool = False, scale: float = 1.0) -> None:
        """Set the size of the window in pixels and the colour scheme that the person prefers."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """What the whole page looks like, as PNG."""
        data = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def _point_in(self, selector: str, share: float) -> tuple[float, float]:
        """Scroll an element into sight and return a point in it, at a share of its width, in pixels of the window."""
        script = f"""(() => {{
          const element = document.querySelector('{selector}');
          element.scrollIntoView({{block: 'center', behavior: 'instant'}});
          const box = element.getBoundingClientRect();
          return [box.x + {share} * box.width, box.y + box.height / 2];
        }})()"""
        x, y = self.value_of(script)
        return x, y

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_calls += 1
        number = self._num_calls
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        answer = _soon(lambda: self._answers.pop(number, None), what=method)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._read_fd, 1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for part in whole:
                self._take(json.loads(part))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            self.requests.append(message["params"]["url"])
        elif message["method"] == "Runtime.consoleAPICalled":
            if message["params"]["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(message["params"]))
        elif message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        elif message["method"] == "Log.entryAdded":
            self.complaints.append(json.dumps(message["params"]["entry"]))


def _soon(look: Callable[[], Any], *, what: str) -> Any:
    end_s = time.monotonic() + _GUARD_S
    while not (found := look()):
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.02)
    return found
