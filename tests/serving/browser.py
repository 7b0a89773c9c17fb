# SPDX-License-Identifier: Apache-2.0
"""The page in headless Chromium.

PYTHONPATH=tests/serving python tests/serving/browser.py docs    # takes the documents' screenshots anew
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

SIZES = {"desktop": (1280, 1080), "phone": (390, 844)}


class Page:
    """One browser window with the page in it."""

    def __init__(self, url: str):
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
        assert binary is not None
        assert driver is not None
        options.binary_location = binary
        self.url = url
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def open(self, size: str = "desktop", scheme: str = "light") -> None:
        """Load the page and wait until the model has driven."""
        width, height = SIZES[size]
        command = self.driver.execute_cdp_cmd
        command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        command("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(self.url)
        self.until(lambda: self.driven())

    def find(self, name: str) -> Any:
        """The element with an id."""
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """What an element says."""
        said: str = self.find(name).text
        return said

    def driven(self) -> bool:
        """Whether the result of the last drive is there."""
        return "comfortable" in self.text("notes")

    def scene(self) -> str:
        """The picture from above in words."""
        label: str = self.find("scene").get_attribute("aria-label")
        return label

    def until(self, true: Callable[[], bool], seconds: float = 90.0) -> None:
        """Wait for something."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.text("notes"), self.text("state"), self.log())
            time.sleep(0.05)

    def log(self) -> list[str]:
        """What the console says."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def picture(self, whole: bool = False) -> Image.Image:
        """A screenshot of the window, or of the whole page."""
        if whole:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.execute_script("return window.innerWidth")
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            time.sleep(0.4)
        return Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")


@contextmanager
def page(url: str) -> Iterator[Page]:
    """A page, closed at the end."""
    opened = Page(url)
    try:
        yield opened
    finally:
        opened.driver.quit()


def main(folder: Path) -> None:
    """Take the screenshots."""
    import signal

    from processes import Process

    server = Process("--port", "0", "--no-warm-up", model="nano").ready()
    with page(server.url) as opened:
        for size, scheme in (("desktop", "light"), ("phone", "dark")):
            opened.open(size, scheme)
            for option in opened.find("clip").find_elements(By.TAG_NAME, "option"):
                if option.text.endswith(" 5"):
                    option.click()
                    opened.until(lambda: not opened.driven())
            opened.until(opened.driven)
            question = opened.find("question")
            question.send_keys("What colour is the traffic light?")
            question.submit()
            opened.until(
                lambda: (
                    bool(opened.text("answer"))
                    and "writing" not in opened.find("answer").get_attribute("class")
                )
            )
            opened.driver.execute_script("window.scrollTo(0, 0)")
            picture = opened.picture(whole=True)
            picture.quantize(128).save(folder / f"page-{size}-{scheme}.png", optimize=True)
    server.end(signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
