"""A headless chromium, driven over its debugging pipe (Chrome DevTools Protocol): no driver and no library needed."""

from __future__ import annotations

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
_GUARD_S = 120.0


class Browser:
    """One page in a browser of its own; `with` ends it. What the page complains of is kept in `complaints`."""

    def __init__(self, folder: Path) -> None:
        assert BINARY is not None, "chromium is needed: apt-get install chromium"
        self.complaints: list[str] = []
        self._num_calls = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._session = ""
        to_read, self._write_fd = os.pipe()
        self._read_fd, to_write = os.pipe()
        options = f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir={folder}"
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
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join(_GUARD_S)
        os.close(self._write_fd)
        os.close(self._read_fd)

    def open(self, url: str) -> None:
        """Show a page; returns when it is loaded."""
        self._call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

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
