"""Take the pictures of docs/studio.md: ``python docs/studio.py``.

It starts a server of shipped weights in a temporary folder, and drives Chromium by Playwright
(pip install playwright, and a chromium of the system). Prompts and seeds were fixed before any
result was seen.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

MODELS = ("default", "dalle", "maskgit", "clip")
MINUTES = 15 * 60_000  # milliseconds, the longest wait
DESKTOP, PHONE = {"width": 1200, "height": 780}, {"width": 360, "height": 740}
HOUSES = ("a red house on a beach", "a yellow star at night", "two dogs and a tree")


def keep(page: Page, name: str) -> None:
    """Save a picture of the page beside this file, as a small WebP."""
    page.mouse.move(0, 0)
    image = Image.open(io.BytesIO(page.screenshot()))
    image.save(Path(__file__).with_name(f"studio-{name}.webp"), quality=70, method=6)


def opened(browser: Browser, url: str, size: dict[str, int], language: str, dark: bool) -> Page:
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport=size, locale=language, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(MINUTES)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    return page


def draw(page: Page, prompt: str, seed: int, steps: int = 20, n: int = 1) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.fill("#n", str(n))
    page.locator("#steps").evaluate("(each, value) => { each.value = value; }", str(steps))
    page.press("#prompt", "Control+Enter")
    page.wait_for_timeout(500)


def take(browser: Browser, url: str) -> None:
    page = opened(browser, url, DESKTOP, "en-GB", dark=False)
    for seed, prompt in enumerate(HOUSES):
        draw(page, prompt, seed)
    expect(page.locator(".card.done")).to_have_count(len(HOUSES))
    draw(page, "three red apples to the left of a blue car", 7, n=2)
    page.wait_for_selector(".card.running .has-preview")
    expect(page.locator(".card.running .card-state")).to_contain_text("left")
    keep(page, "draw")
    expect(page.locator(".card.running")).to_have_count(0)
    page.click("#tab-compare")
    page.click("#go")
    expect(page.locator("#compare .tile")).to_have_count(3)
    keep(page, "compare")
    phone = opened(browser, url, PHONE, "hi-IN", dark=True)
    draw(phone, "समुद्र तट पर एक लाल घर", 3)
    expect(phone.locator(".card.running, .card.queued")).to_have_count(0)
    keep(phone, "phone")


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with TemporaryDirectory() as folder, sync_playwright() as started:
        expect.set_options(timeout=MINUTES)
        named = [part for name in MODELS for part in ("--model", name)]
        command = [sys.executable, "-m", "kalpana", "serve", "--port", "0", "--folder", folder]
        server = subprocess.Popen(
            [*command, *named], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser, url)
            browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
