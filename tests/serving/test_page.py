# SPDX-License-Identifier: Apache-2.0
"""The page: it plays, scrubs, asks and follows its controls; by keyboard too, and for everybody."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from processes import Process

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs selenium")
    from browser import page

    server = Process("--port", "0", "--no-warm-up", "--world-clips", "6", model="nano").ready()
    with page(server.url) as opened:
        yield opened
        assert opened.log() == []
    assert server.end(signal.SIGTERM) == 0
    assert not [line for line in server.said if "error" in line.lower()]


def reasoning_of(shown: Any) -> str:
    text: str = shown.text("reasoning")
    return text


def test_shows_a_clip(shown: Any) -> None:
    shown.open()
    pictures = shown.driver.execute_script(
        "return [...document.querySelectorAll('#cameras img')].map(i => [i.alt, i.naturalWidth])"
    )
    assert [width for _, width in pictures] == [224] * 4
    assert pictures[0][0] == "View of the front left camera"
    assert reasoning_of(shown).endswith(".")
    assert shown.scene().startswith("6 proposed trajectories, ending")
    stages = shown.driver.execute_script(
        "return [...document.querySelectorAll('#stages li')].map(l => l.className)"
    )
    assert stages == ["preprocess", "vision", "prefill", "decode", "expert", "total"]
    blank = "const c = document.getElementById('scene'); return c.getContext('2d')" + (
        ".getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    )
    assert shown.driver.execute_script(blank)


def test_the_reasoning_appears_while_it_is_written(shown: Any) -> None:
    shown.open()
    shown.driver.execute_script(
        "window.lengths = []; new MutationObserver(() => window.lengths.push("
        "document.getElementById('reasoning').textContent.length))"
        ".observe(document.getElementById('reasoning'), {childList: true, characterData: true, subtree: true})"
    )
    shown.find("seed").clear()
    shown.find("seed").send_keys("12")
    shown.find("drive").submit()
    shown.until(lambda: shown.driver.execute_script("return window.lengths.length") > 0)
    shown.until(shown.driven)
    lengths = [n for n in shown.driver.execute_script("return window.lengths") if n]
    assert len(set(lengths)) >= 5
    assert lengths[-1] == len(reasoning_of(shown))


def test_controls(shown: Any) -> None:
    shown.open()
    for name, value in (("candidates", "3"), ("steps", "4")):
        field = shown.find(name)
        field.clear()
        field.send_keys(value, "\t")
    shown.until(lambda: shown.scene().startswith("3 proposed"))
    assert shown.text("notes").endswith("of 3 trajectories comfortable")
    field = shown.find("candidates")
    field.clear()
    field.send_keys("999", "\t")
    shown.until(lambda: shown.text("notes") == "Trajectories: expected a whole number from 1 to 64")


def test_scrubbing_goes_through_time(shown: Any) -> None:
    shown.open()
    before = shown.text("clock"), shown.scene()
    source = shown.driver.execute_script("return document.querySelector('#cameras img').src")
    from selenium.webdriver.common.keys import Keys

    shown.find("time").send_keys(Keys.HOME)
    shown.until(lambda: shown.text("clock") == "1.5 s")
    shown.until(
        lambda: shown.driver.execute_script("return document.querySelector('#cameras img').src") != source
    )
    shown.until(shown.driven)
    assert shown.scene() != before[1]
    assert shown.find("time").get_attribute("aria-valuetext") == "1.5 s"


def test_plays_and_pauses_by_keyboard(shown: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    shown.open()
    for name, value in (("candidates", "1"), ("steps", "2")):
        shown.find(name).clear()
        shown.find(name).send_keys(value)
    shown.driver.execute_script("document.activeElement.blur()")
    first = float(shown.text("clock").split()[0])
    ActionChains(shown.driver).send_keys(" ").perform()
    assert shown.find("play").get_attribute("aria-pressed") == "true"
    shown.until(lambda: float(shown.text("clock").split()[0]) >= first + 0.3)
    ActionChains(shown.driver).send_keys(" ").perform()
    assert shown.text("play") == "Play"
    stopped = float(shown.text("clock").split()[0])
    from selenium.webdriver.common.keys import Keys

    ActionChains(shown.driver).send_keys(Keys.ARROW_LEFT).perform()
    shown.until(lambda: shown.text("clock") == f"{stopped - 0.1:.1f} s")


def test_navigation_changes_the_way(shown: Any) -> None:
    shown.open()
    found = None
    for clip in shown.find("clip").find_elements("tag name", "option"):
        clip.click()
        shown.until(lambda: shown.text("reasoning") != "" and shown.driven())
        if shown.find("navigation").get_attribute("value"):
            found = clip.text
            break
    assert found is not None
    own = shown.find("navigation").get_attribute("value")
    distance = own.split(" in ")[-1] if " in " in own else "20m"
    scenes = set()
    for turn in ("left", "right"):
        field = shown.find("navigation")
        field.clear()
        field.send_keys(f"Turn {turn} in {distance}")
        shown.find("drive").submit()
        shown.until(lambda: "writing" in shown.find("reasoning").get_attribute("class") or shown.driven())
        shown.until(shown.driven)
        scenes.add(shown.scene())
    assert len(scenes) == 2
    assert shown.find("own").is_enabled()
    shown.find("own").click()
    shown.until(lambda: shown.find("navigation").get_attribute("value") == own)


def test_asks(shown: Any) -> None:
    shown.open()
    shown.find("question").send_keys("Is there a traffic light?")
    shown.find("ask").submit()
    shown.until(lambda: shown.text("answer").endswith((".", "no", "yes")) and len(shown.text("answer")) > 1)
    assert shown.text("asked") == "Is there a traffic light?"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_fits_and_is_accessible(shown: Any, size: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python.selenium", reason="needs axe-core-python")
    shown.open(size, scheme)
    width, inner = shown.driver.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert width <= inner
    found = axe.Axe().run(shown.driver)
    bad = [
        (v["id"], [n["html"][:120] for n in v["nodes"]])
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []
    assert len(found["passes"]) > 15
