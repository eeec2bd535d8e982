"""Headless Chromium through its driver, by the WebDriver protocol (W3C) and the standard library."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ABSENT = "needs Chromium and its driver (Debian: chromium chromium-driver)"

ENTER, ESCAPE = "\ue007", "\ue00c"
_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000")


class BrowserError(Exception):
    """The driver reports an error, such as that of a script."""


class Browser:
    """One window.

    Args:
        address: Address of the session at the driver.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self.command("url", {"url": address})

    def address(self) -> str:
        """The address of the page."""
        return str(self.command("url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a JavaScript function, whose arguments are ``arguments``; return its value."""
        return self.command("execute/sync", {"script": script, "args": arguments})

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a CSS selector finds."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())"
        return list(self.run(script, selector))

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds."""
        event = (
            "new MouseEvent('click', { bubbles: true, cancelable: true })"  # links in figures have no method `click`
        )
        self.run(f"document.querySelector(arguments[0]).dispatchEvent({event})", selector)

    def press(self, key: str) -> None:
        """Press a key."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.command("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, at most 10 seconds."""
        script = """
            const [condition, done] = arguments, holds = new Function("return " + condition);
            let tries = 0;
            (function again() {
              if (holds()) done(true);
              else if ((tries += 1) > 500) done(false);
              else setTimeout(again, 20);
            })();"""
        assert self.command("execute/async", {"script": script, "args": [condition]}), condition

    def narrow(self, width: int) -> None:
        """Show the page as on a phone of this width; 0 ends that."""
        name = "setDeviceMetricsOverride" if width else "clearDeviceMetricsOverride"
        size = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True} if width else {}
        self.command("goog/cdp/execute", {"cmd": f"Emulation.{name}", "params": size})

    def messages(self) -> list[Any]:
        """Messages on the console since the last call."""
        return list(self.command("se/log", {"type": "browser"}))

    def command(self, name: str, fields: dict[str, Any] | None = None) -> Any:
        """Send a command to the session; without fields, ask for a value."""
        return _request(f"{self._address}/{name}", fields)


def _request(address: str, fields: dict[str, Any] | None, method: str | None = None) -> Any:
    data = None if fields is None else json.dumps(fields).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - an address of this machine
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            value = json.load(error)["value"]
        raise BrowserError(f"{value['error']}: {value['message'].splitlines()[0]}") from None


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser, which is closed at the end."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            assert driver.stdout is not None
            port = next(line.split("on port ")[1].rstrip(".\n") for line in driver.stdout if "successfully" in line)
            options = {"binary": CHROMIUM, "args": _ARGUMENTS}
            capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            sessions = f"http://127.0.0.1:{port}/session"
            address = f"{sessions}/{_request(sessions, {'capabilities': {'alwaysMatch': capabilities}})['sessionId']}"
            try:
                yield Browser(address)
            finally:
                _request(address, None, "DELETE")
        finally:
            driver.terminate()
