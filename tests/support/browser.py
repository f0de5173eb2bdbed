"""A page in a real browser: Debian's Chromium, driven without a window."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.page import save_page


class Page:
    """A page in a browser. Everything is done by mouse and keys; `circuitPage` only tells what is shown, and where."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, circuit: Circuit, other: Circuit | None = None, **options: Any) -> Page:
        path = save_page(circuit, self.folder / "page.html", other, **options)
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        return self.settle()

    def settle(self) -> Page:
        # Two frames: a change asked for in one is made in the next.
        script = "const d = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => d(0)))"
        deadline = time.monotonic() + 60
        self.driver.execute_async_script(script)
        while not self.run("return Boolean(window.circuitPage) && circuitPage.idle()"):
            assert time.monotonic() < deadline, f"the page does not settle: {self.driver.get_log('browser')}"
            time.sleep(0.02)
        return self

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def edges(self, bits: int = 3) -> list[str]:
        self.settle()
        return sorted(self.run("return circuitPage.edges(arguments[0])", bits))

    def nodes(self) -> list[str]:
        return self.run("return circuitPage.nodes()")

    def pointer(self, place: dict[str, float], view: int = 0) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        box = self.driver.find_elements("css selector", ".view")[view]
        size = box.size
        x, y = place["x"] - size["width"] / 2, place["y"] - size["height"] / 2
        return ActionChains(self.driver, duration=0).move_to_element_with_offset(box, round(x), round(y))

    def click_node(self, name: str, view: int = 0) -> None:
        place = self.run("return circuitPage.where(arguments[0], arguments[1])", name, view)
        self.pointer(place, view).click().perform()
        time.sleep(0.3)  # the library waits to see whether a second click follows
        self.settle()

    def keys(self, css: str, *keys: str) -> None:
        self.find(css).send_keys(*keys)
        self.settle()

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
