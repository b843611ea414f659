"""The Studio in a browser: Chromium, driven by Playwright, with a server of the tiny models."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from kalpana.media import read_picture, read_receipt, save
from kalpana.serve import web

from .conftest import Process, photo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STRINGS = {
    name: json.loads((web.FOLDER / f"strings-{name}.json").read_text("utf-8"))
    for name in ("en", "hi")
}
TABS = ["draw", "edit", "video", "compare", "grid", "trace", "gallery"]
KEY = "0123456789abcdef"
WAIT = 120_000  # milliseconds; a busy machine is not a bug


# ------------------------------------------------------------------------------------- the files


def test_both_languages_have_the_same_strings_and_values() -> None:
    english, hindi = STRINGS["en"], STRINGS["hi"]
    assert english.keys() == hindi.keys()
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", hindi[key])), key


def test_every_string_that_is_used_exists_and_no_other() -> None:
    source = "".join(path.read_text("utf-8") for path in web.FOLDER.glob("*.js"))
    page = (web.FOLDER / "index.html").read_text("utf-8")
    used = set(re.findall(r'data-t(?:-label|-placeholder)?="(\w+)"', page))
    quoted = set(re.findall(r'"(\w+)"', source))
    prefixes = tuple(re.findall(r"`(\w+_)\$\{", source))
    suffixes = tuple(re.findall(r"\}(_\w+)`", source))
    assert used <= STRINGS["en"].keys()
    assert set(re.findall(r'"data-t(?:-label)?": "(\w+)"', source)) <= STRINGS["en"].keys()
    for key in STRINGS["en"].keys() - used - quoted:
        assert key.startswith(prefixes) or key.endswith(suffixes), f"{key} is not used"


def test_no_file_of_the_page_is_long_or_names_another_host() -> None:
    for path in web.FOLDER.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        assert path.suffix in web.TYPES and text.count("\n") <= 500, path


# ------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    pytest.importorskip("uvicorn", reason="the server needs uvicorn: pip install 'kalpana[serve]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        playwright.expect.set_options(timeout=WAIT)
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(
    folder: Path, clip_folder: Path, video_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Arguments that name the tiny models, one of them twice under another name."""
    twin = tmp_path_factory.mktemp("models") / "twin"
    shutil.copytree(folder, twin)
    card = json.loads((twin / "card.json").read_text())
    uses = ["prompt", "steps", "sampler", "size", "image"]
    card |= {"name": "twin", "capabilities": card["capabilities"] | {"uses": uses}}
    (twin / "card.json").write_text(json.dumps(card))
    names = (folder, twin, video_folder, clip_folder)
    return [part for name in names for part in ("--model", str(name))] + ["--max-models", "4"]


@pytest.fixture(scope="module")
def server(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("studio") / "server", *models)
    yield process
    process.end()


@pytest.fixture
def opened(browser: Browser) -> Callable[..., Any]:
    """A context with a page of a server; it fails if the page sends a request elsewhere, or has an
    error or breaks its policy."""

    @contextmanager
    def opened(url: str, tab: str = "draw", ready: bool = True, **options: Any) -> Iterator[Page]:
        context = browser.new_context(**{"locale": "en-GB", "service_workers": "block"} | options)
        context.set_default_timeout(WAIT)
        page, sent, faults = context.new_page(), list[str](), list[str]()
        page.on("request", lambda request: sent.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if "Policy" in m.text else None)
        page.goto(f"{url}/#{tab}")
        if ready:
            page.wait_for_selector("html[data-ready]")
        yield page
        context.close()
        assert sent and {url_ for url_ in sent if not url_.startswith((url, "data:", "blob:"))} == (
            set()
        )
        assert faults == []

    return opened


def expect(what: Any) -> Any:
    """An assertion that waits for what it states."""
    from playwright.sync_api import expect

    return expect(what)


def latest(page: Page, url: str) -> dict[str, Any]:
    return page.request.get(f"{url}/v1/jobs?limit=1").json()["data"][0]


def drawn(page: Page, prompt: str = "a cat", **fields: str) -> Any:
    """The newest card, once its picture is finished."""
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    before = page.locator("#jobs .card").count()
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#jobs .card")).to_have_count(before + 1)
    card = page.locator("#jobs .card").first
    expect(card).to_have_class(re.compile("done"))
    return card


def finished(page: Page, url: str, **fields: Any) -> dict[str, Any]:
    """A job that was made without the page."""
    made = page.request.post(f"{url}/v1/jobs", data={"prompt": "a cat", "steps": 2} | fields).json()
    page.request.get(f"{url}/v1/jobs/{made['id']}/events")
    return page.request.get(f"{url}/v1/jobs/{made['id']}").json()


def content(page: Page, made: dict[str, Any]) -> bytes:
    return page.request.get(made["outputs"][0]["url"]).body()


@pytest.mark.slow
def test_control_enter_draws_what_the_form_says(server: Process, opened: Any) -> None:
    with opened(server.url) as page:
        page.click("#more summary")
        card = drawn(page, "एक लाल سيب", seed="41", steps="3", guidance="2.5", n="2")
        job = latest(page, server.url)
        wanted = {"prompt": "एक लाल سيب", "seed": 41, "steps": 3, "guidance": 2.5, "n": 2}
        assert job["request"] == wanted | {"model": "tiny"}
        assert card.locator("img").count() == 2
        assert card.locator("img").first.evaluate("each => each.naturalWidth") == 32
        assert page.locator("#prompt").get_attribute("dir") == "auto"
        expect(page.locator("#live")).to_contain_text("2")
        drawn(page, "a dog", n="1")  # the seed was typed, so it is kept
        assert latest(page, server.url)["request"]["seed"] == 41
        page.click("#lock")
        drawn(page, "a dog")
        assert latest(page, server.url)["request"]["seed"] != 41
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.input_value("#prompt") == "a dog" and page.input_value("#steps") == "3"
        expect(page.locator("#jobs .card").first).to_contain_text("a dog")


@pytest.mark.slow
def test_escape_cancels_the_jobs_of_this_tab_only(server: Process, opened: Any) -> None:
    with opened(server.url) as page, opened(server.url) as other:
        page.click("#more summary")
        page.fill("#prompt", "slow")
        page.fill("#steps", "1000")
        page.fill("#n", "16")  # seconds, also on a fast machine
        page.click("#go")
        expect(page.locator("#stop")).to_be_visible()
        expect(page.locator(".card.running progress")).to_have_count(1)
        expect(other.locator(".card.running")).to_have_count(1)
        expect(other.locator("#stop")).to_be_hidden()
        other.press("#prompt", "Escape")
        other.wait_for_timeout(200)
        assert latest(page, server.url)["state"] == "running"
        page.press("#prompt", "Escape")
        expect(page.locator(".card").first).to_have_class("card cancelled")
        expect(other.locator(".card").first).to_have_class("card cancelled")
        expect(page.locator("#stop")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "hi"])
def test_every_control_has_a_name_in_the_language(
    server: Process, opened: Any, language: str
) -> None:
    roles = {"button", "textbox", "combobox", "checkbox", "spinbutton", "slider", "tab", "link"}
    roles |= {"searchbox", "image", "canvas", "dialog", "progressbar"}
    with opened(server.url, locale=f"{language}-IN") as page:
        finished(page, server.url)
        assert page.locator("html").get_attribute("lang") == language
        page.click("#more summary")
        tools = page.context.new_cdp_session(page)
        for tab in TABS:
            page.click(f"#tab-{tab}")
            page.locator(f"#panel[data-mode={tab}]").wait_for()
            nodes = tools.send("Accessibility.getFullAXTree")["nodes"]
            named = [node for node in nodes if node.get("role", {}).get("value") in roles]
            assert len(named) > 10 and [n for n in named if not n["name"].get("value")] == [], tab
            texts = page.locator("[data-t]:not([data-t-values])").evaluate_all(
                "all => all.map(each => [each.dataset.t, each.textContent])"
            )
            assert [key for key, text in texts if text != STRINGS[language][key]] == []


@pytest.mark.slow
def test_tabs_are_walked_by_arrow_keys(server: Process, opened: Any) -> None:
    with opened(server.url) as page:
        page.focus("#tab-draw")
        for key, tab in [("ArrowRight", "edit"), ("End", "gallery"), ("ArrowRight", "draw")]:
            page.keyboard.press(key)
            focused = page.locator(":focus")
            assert focused.get_attribute("id") == f"tab-{tab}"
            assert focused.get_attribute("aria-selected") == "true"
        assert page.locator('[role=tab][tabindex="-1"]').count() == len(TABS) - 1


@pytest.mark.slow
def test_a_phone_screen_and_large_zoom_need_no_sideways_scrolling(
    server: Process, opened: Any
) -> None:
    for width in (360, 640):  # 640: a screen of 1280 pixels at 200 %
        with opened(server.url, viewport={"width": width, "height": 700}, locale="hi") as page:
            for tab in TABS:
                page.click(f"#tab-{tab}")
                page.wait_for_timeout(50)
                wide = page.evaluate("() => document.documentElement.scrollWidth")
                assert wide <= width, tab


@pytest.mark.slow
def test_fields_a_model_cannot_use_are_disabled_with_the_reason(
    server: Process, opened: Any
) -> None:
    with opened(server.url) as page:
        page.click("#more summary")
        assert page.is_enabled("#guidance") and page.is_disabled("#temperature")
        page.fill("#guidance", "5")
        page.select_option("#model", "twin")
        expect(page.locator("#guidance")).to_be_disabled()
        reason = page.locator(f"#{page.get_attribute('#guidance', 'aria-describedby')}")
        expect(reason).to_have_text("Model twin has no such setting.")
        drawn(page)
        assert "guidance" not in latest(page, server.url)["request"]


@pytest.mark.slow
def test_a_picture_restores_its_settings(server: Process, opened: Any, tmp_path: Path) -> None:
    with opened(server.url) as page:
        data = content(page, finished(page, server.url, seed=2**60 + 1, steps=7, guidance=1.5))
        file = tmp_path / "drawn.png"
        file.write_bytes(data)
        page.set_input_files("#restore", file)
        expect(page.locator("#steps")).to_have_value("7")
        assert page.input_value("#seed") == str(2**60 + 1)
        assert page.input_value("#guidance") == "1.5" and page.input_value("#prompt") == "a cat"
        drawn(page)
        receipt = read_receipt(content(page, latest(page, server.url)))
        assert receipt["seed"] == 2**60 + 1
        changed = receipt | {"kalpana": "0.0.1", "resolved": {"model": "gone", "steps": 9}}
        other = save(Image.new("RGB", (8, 8)), tmp_path / "other.png", changed)
        drop(page, other.read_bytes(), "other.png")
        expect(page.locator("#steps")).to_have_value("9")
        alerts = page.locator("#alerts")
        expect(alerts).to_contain_text("Kalpana 0.0.1")
        expect(alerts).to_contain_text("gone")
        drop(page, b"no picture", "notes.txt")
        expect(alerts).to_contain_text("cannot be read")
        assert page.input_value("#steps") == "9"


def drop(page: Page, data: bytes, name: str) -> None:
    """Drop a file on the page."""
    transfer = page.evaluate_handle(
        "([bytes, name]) => { const transfer = new DataTransfer();"
        "transfer.items.add(new File([new Uint8Array(bytes)], name)); return transfer; }",
        [list(data), name],
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#panel", kind, {"dataTransfer": transfer})


@pytest.mark.slow
def test_a_mask_by_numbers_changes_only_its_rectangle(
    server: Process, opened: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(photo())
    huge = Image.new("1", (20_000, 2_500))
    huge.save(tmp_path / "huge.png")
    with opened(server.url, "edit") as page:
        page.set_input_files("#slot-image", tmp_path / "photo.png")
        page.locator("#mask").wait_for()
        page.set_input_files("#slot-image", tmp_path / "huge.png")
        expect(page.locator("#alerts")).to_contain_text("20000 × 2500")
        (tmp_path / "text.png").write_text("no picture")
        page.set_input_files("#slot-image", tmp_path / "text.png")
        expect(page.locator("#alerts")).to_contain_text("no picture that the browser can read")
        page.click("#mask-tools summary")
        for name, value in {"x": 4, "y": 8, "w": 10, "h": 12}.items():
            page.fill(f"#rect-{name}", str(value))
        page.click("#add-rect")
        expect(page.locator("#mask-state")).to_contain_text("12 %")
        drawn(page)
        before = np.asarray(read_picture(photo()))
        after = np.asarray(read_picture(content(page, latest(page, server.url))))
        outside = np.ones((32, 32), bool)
        outside[8:20, 4:14] = False
        assert (before[outside] == after[outside]).all() and (before != after).any()
        page.click("#undo-mask")
        expect(page.locator("#mask-state")).to_contain_text("empty")
        page.locator("#mask").hover(position={"x": 50, "y": 50})
        page.mouse.down()
        page.locator("#mask").hover(position={"x": 90, "y": 60})
        page.mouse.up()
        expect(page.locator("#mask-state")).to_contain_text("covers")


@pytest.mark.slow
def test_a_video_starts_with_a_picture(server: Process, opened: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo(size=(16, 16)))
    with opened(server.url, "video") as page:
        page.set_input_files("#slot-first", tmp_path / "photo.png")
        page.click("#more summary")
        page.select_option("#format", "webp")
        page.select_option("#camera", "pan left")
        drawn(page, seconds="0.5", fps="4", steps="2")
        job = latest(page, server.url)
        assert job["kind"] == "video" and job["request"]["camera"] == "pan left"
        assert Image.open(io.BytesIO(content(page, job))).n_frames == 2
        assert job["request"]["image"]["sha256"]


@pytest.mark.slow
def test_tables_draw_every_cell_with_one_seed(server: Process, opened: Any) -> None:
    with opened(server.url, "grid") as page:
        page.fill("#prompt", "a cat")
        page.select_option("#x-field", "guidance")
        page.fill("#x-values", "1.5, 3")
        page.select_option("#y-field", "steps")
        page.fill("#y-values", "1..2")
        page.click("#go")
        expect(page.locator("#grid .tile")).to_have_count(4)
        jobs = page.request.get(f"{server.url}/v1/jobs?limit=4").json()["data"][::-1]
        asked = [(job["request"]["steps"], job["request"]["guidance"]) for job in jobs]
        assert asked == [(1, 1.5), (1, 3), (2, 1.5), (2, 3)]
        assert len({job["request"]["seed"] for job in jobs}) == 1
        files = page.locator("#grid .tile").evaluate_all("all => all.map(e => e.dataset.file)")
        assert files == [job["outputs"][0]["file"] for job in jobs]
        heads = page.locator("#grid th").all_inner_texts()
        assert heads == ["Guidance 1.5", "Guidance 3", "Steps 1", "Steps 2"]
        page.click("#tab-compare")
        page.click("#more summary")
        page.fill("#guidance", "2")
        page.click("#go")
        expect(page.locator("#compare .tile")).to_have_count(2)
        cells = page.locator("#compare td").all_inner_texts()
        assert "Guidance" not in cells[0] and "Left out: Guidance" in cells[1]
        page.reload()
        expect(page.locator("#compare .tile")).to_have_count(2)


@pytest.mark.slow
def test_a_trace_shows_its_steps(server: Process, opened: Any) -> None:
    with opened(server.url, "trace") as page:
        page.fill("#prompt", "a cat <b>bold</b>")
        page.click("#more summary")
        page.fill("#steps", "3")
        page.click("#go")
        expect(page.locator("#trace h2").first).to_have_text("a cat <b>bold</b>")
        captions = page.locator("#trace figcaption").all_inner_texts()
        assert [text for text in captions if "step" in text] == ["step 1", "step 2", "step 3"]
        page.fill("#steps", "1000")
        page.click("#go")
        expect(page.locator("#stop")).to_be_visible()
        page.press("#prompt", "Escape")
        expect(page.locator("#stop")).to_be_hidden()
        assert page.request.get(f"{server.url}/v1/models/tiny/capabilities").ok


@pytest.mark.slow
def test_the_gallery_finds_by_words_stars_and_likeness(server: Process, opened: Any) -> None:
    with opened(server.url) as page:
        drawn(page, "a zebra", seed="1")
        page.click("#tab-gallery")
        page.fill("#query", "ZEBRA")
        page.press("#query", "Enter")
        expect(page.locator("#tiles .tile")).to_have_count(1)
        page.click("#tiles .tile")
        page.click("#viewer .star")
        expect(page.locator("#tiles .starred")).to_have_count(1)
        page.click("#viewer summary")
        expect(page.locator("#viewer .receipt")).to_contain_text('"prompt": "a zebra"')
        page.click('#viewer [data-t="similar"]')
        expect(page.locator("#gallery-state")).to_contain_text("most similar first")
        first = page.locator("#tiles .tile").first
        expect(first).to_have_attribute("aria-label", re.compile("zebra"))
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.check("#starred")
        expect(page.locator("#gallery-state")).to_have_text("1 found")
        page.click("#tiles .tile")
        page.click('#viewer [data-t="use_settings"]')
        expect(page.locator("#prompt")).to_have_value("a zebra")
        assert page.input_value("#seed") == "1"


@pytest.mark.slow
def test_a_very_long_prompt_is_refused_and_kept(server: Process, opened: Any) -> None:
    with opened(server.url) as page:
        page.fill("#prompt", "a" * 100_000)
        expect(page.locator("#prompt-note")).to_contain_text("100,000")
        posted = []
        page.on("request", lambda request: posted.append(request) if request.post_data else None)
        page.press("#prompt", "Control+Enter")
        expect(page.locator("#alerts")).to_contain_text("Shorten the prompt")
        assert len(page.input_value("#prompt")) == 100_000 and posted == []


@pytest.mark.slow
def test_nothing_is_lost_when_the_server_goes_away(
    opened: Any, models: list[str], tmp_path: Path
) -> None:
    server = Process(tmp_path / "server", *models)
    port = server.url.rpartition(":")[2]
    try:
        with opened(server.url) as page:
            page.click("#more summary")
            page.fill("#prompt", "slow")
            page.fill("#steps", "1000")
            page.fill("#n", "16")
            page.click("#go")
            expect(page.locator(".card.running")).to_have_count(1)
            server.end(kill=True)
            expect(page.locator("#connection")).to_contain_text("does not answer")
            page.fill("#prompt", "later")
            page.click("#go")
            expect(page.locator("#alerts")).to_contain_text("settings are kept")
            server = Process(tmp_path / "server", *models, "--port", port)
            expect(page.locator("#connection")).to_be_empty(timeout=20_000)
            expect(page.locator(".card.done")).to_have_count(1)
            assert page.input_value("#prompt") == "later"
            page.reload()
            expect(page.locator(".card.done")).to_have_count(1)
    finally:
        server.end(kill=True)


@pytest.mark.slow
def test_the_key_is_asked_for_once(opened: Any, models: list[str], tmp_path: Path) -> None:
    server = Process(tmp_path / "server", *models, "--api-key", KEY)
    try:
        with opened(server.url, ready=False) as page:
            page.fill("#key", "not the key of this server")
            page.press("#key", "Enter")
            expect(page.locator("#key-error")).to_have_text("This key is not valid.")
            page.fill("#key", KEY)
            page.press("#key", "Enter")
            page.wait_for_selector("html[data-ready]")
            card = drawn(page)
            assert card.locator("img").evaluate("each => each.naturalWidth") == 32
            page.reload()
            page.wait_for_selector("html[data-ready]")
            expect(page.locator("#key-dialog")).to_be_hidden()
            expect(page.locator(".card.done")).to_have_count(1)
            assert page.evaluate("() => JSON.stringify(localStorage)").count(KEY) == 0
    finally:
        server.end()


@pytest.mark.slow
def test_without_javascript_the_page_says_so(server: Process, opened: Any) -> None:
    with opened(server.url, ready=False, java_script_enabled=False) as page:
        expect(page.locator("noscript .notice")).to_be_visible()
        expect(page.locator("noscript .notice")).to_contain_text("needs JavaScript")


def reload(page: Page) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")


def draft(page: Page, name: str, ready: str) -> None:
    """Wait until a draft ``d`` of this tab is in the browser's database for which the JavaScript
    ``ready`` is true."""
    assert page.evaluate(
        "async ([name, most]) => { const { kept } = await import('/studio/drafts.js');"
        "for (const end = Date.now() + most; Date.now() < end;) {"
        f"const d = await kept(name); if (d && ({ready})) return true;"
        "await new Promise((resolve) => setTimeout(resolve, 50)); } return false; }",
        [name, WAIT],
    )


@pytest.mark.slow
def test_pictures_masks_and_maps_survive_a_reload(
    server: Process, opened: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(photo())
    with opened(server.url, "edit") as page:
        page.set_input_files("#slot-image", tmp_path / "photo.png")
        page.locator("#mask").wait_for()
        page.click("#mask-tools summary")
        for name, value in {"x": 4, "y": 8, "w": 10, "h": 12}.items():
            page.fill(f"#rect-{name}", str(value))
        page.click("#add-rect")
        expect(page.locator("#mask-state")).to_contain_text("12 %")
        draft(page, "edit", "d.image && d.mask")
        reload(page)
        expect(page.locator("#mask-state")).to_contain_text("12 %")
        drawn(page)
        before = np.asarray(read_picture(photo()))
        after = np.asarray(read_picture(content(page, latest(page, server.url))))
        outside = np.ones((32, 32), bool)
        outside[8:20, 4:14] = False
        assert (before[outside] == after[outside]).all() and (before != after).any()
        page.click("#edit-slot [data-t=remove]")
        draft(page, "edit", "!d.image")
        reload(page)
        expect(page.locator("#mask-tools")).to_be_hidden()
        page.click("#tab-video")
        page.set_input_files("#slot-first", tmp_path / "photo.png")
        draft(page, "video", "d.image")
        reload(page)
        expect(page.locator("#video-slots .filled")).to_have_count(1)


@pytest.mark.slow
def test_a_picture_is_widened(server: Process, opened: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo())
    with opened(server.url, "edit") as page:
        page.set_input_files("#slot-image", tmp_path / "photo.png")
        page.click("#widen summary")
        page.fill("#widen-right", "32")
        drawn(page, strength="1")
        job = latest(page, server.url)
        assert job["request"]["outpaint"]["right"] == 32 and job["size"] == "64x32"
        drawing = np.asarray(read_picture(content(page, job)))
        assert drawing.shape == (32, 64, 3)
        draft(page, "edit", "d.outpaint")
        reload(page)
        expect(page.locator("#widen-right")).to_have_value("32")
        page.click("#mask-tools summary")
        page.click("#add-rect")
        page.press("#prompt", "Control+Enter")
        expect(page.locator("#alerts")).to_contain_text("do not go together")


@pytest.mark.slow
def test_two_tabs_keep_their_own_pictures(server: Process, opened: Any, tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / f"{k}.png").write_bytes(photo(k, size=(16 * (k + 1), 16)))
    with opened(server.url, "edit") as first:
        second = first.context.new_page()
        second.goto(f"{server.url}/#edit")
        second.wait_for_selector("html[data-ready]")
        for k, page in enumerate((first, second)):
            page.set_input_files("#slot-image", tmp_path / f"{k}.png")
            page.locator("#mask").wait_for()
            draft(page, "edit", "d.image")
        for k, page in enumerate((first, second)):
            reload(page)
            assert page.locator("#mask").get_attribute("width") == str(16 * (k + 1))


@pytest.mark.slow
def test_errors_of_the_server_have_their_kind_in_hindi(server: Process, opened: Any) -> None:
    with opened(server.url, locale="hi-IN") as page:
        page.click("#more summary")
        page.evaluate("document.querySelector('#steps').max = ''")
        page.fill("#steps", "2000")
        page.fill("#prompt", "एक बिल्ली")
        page.press("#prompt", "Control+Enter")
        alert = page.locator("#alerts .alert")
        expect(alert).to_contain_text(STRINGS["hi"]["error_invalid_value"])
        expect(alert).to_contain_text(STRINGS["hi"]["f_steps"])
        expect(alert.locator("[lang=en]")).to_contain_text("1000")  # the server's own words
        expect(alert.locator(".error-kind")).to_be_visible()
        page.select_option("#page-language", "en")
        expect(alert.locator(".error-kind")).to_be_hidden()
        expect(alert).to_contain_text(STRINGS["en"]["error_invalid_value"])


def test_every_error_code_of_the_server_has_a_string() -> None:
    """Those that a request of the page cannot cause are left out."""
    source = "".join(path.read_text("utf-8") for path in web.FOLDER.parent.glob("*.py"))
    codes = set(re.findall(r'ApiError\([^()]*?(?:\([^()]*\)[^()]*?)*"([a-z]+_[a-z_]+)"', source))
    codes |= set(re.findall(r'invalid\([^()]*?(?:\([^()]*\)[^()]*?)*"([a-z]+_[a-z_]+)"\)', source))
    other = {"invalid_json", "invalid_form", "unsupported_media_type", "wrong_host", "wrong_origin"}
    other |= {"invalid_api_key", "unsupported_field"}
    fields = {"input_reference", "partial_images", "sampler_name", "init_images"}
    assert len(codes) > 20
    for code in codes - other - fields:
        assert f"error_{code}" in STRINGS["hi"], code


@pytest.mark.slow
def test_text_from_right_to_left_is_drawn_and_shown(server: Process, opened: Any) -> None:
    prompt = "قطة حمراء على العشب"
    with opened(server.url) as page:
        card = drawn(page, prompt, seed="1")
        shown = card.locator(".card-prompt")
        expect(shown).to_have_text(prompt)
        assert shown.evaluate("each => getComputedStyle(each).direction") == "rtl"
        assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"
        assert latest(page, server.url)["request"]["prompt"] == prompt


@pytest.mark.slow
def test_the_whole_way_in_hindi(server: Process, opened: Any) -> None:
    """A sentence, a picture, a masked edit, a video, and a search over one's own gallery."""
    hindi = STRINGS["hi"]
    with opened(server.url, locale="hi-IN") as page:
        assert page.locator("html").get_attribute("lang") == "hi"
        card = drawn(page, "घास पर एक लाल बिल्ली", seed="5")
        first = content(page, latest(page, server.url))
        card.locator(".tile").first.click()
        page.click(f'#viewer button:has-text("{hindi["edit_this"]}")')
        page.locator("#mask").wait_for()
        page.locator("#mask").hover(position={"x": 50, "y": 50})
        page.mouse.down()
        page.locator("#mask").hover(position={"x": 90, "y": 60})
        page.mouse.up()
        expect(page.locator("#mask-state")).not_to_have_text(hindi["mask_empty"])
        drawn(page, "घास पर एक नीली बिल्ली")
        edited = latest(page, server.url)
        assert edited["request"]["image"]["sha256"] and edited["request"]["mask"]["sha256"]
        before, after = (np.asarray(read_picture(each)) for each in (first, content(page, edited)))
        same = (before == after).all(-1)
        assert same.any() and not same.all()
        page.click("#tab-video")
        page.click("#more summary")
        page.select_option("#format", "webp")
        drawn(page, "एक लाल बिल्ली दौड़ती है", seconds="0.5", fps="4", steps="2")
        assert latest(page, server.url)["kind"] == "video"
        page.click("#tab-gallery")
        page.select_option("#find-by", "meaning")
        page.fill("#query", "बिल्ली")
        page.press("#query", "Enter")
        count = page.request.get(f"{server.url}/v1/jobs?limit=500").json()["data"]
        found = hindi["found"].format(n=sum(len(each["outputs"]) for each in count))
        expect(page.locator("#gallery-state")).to_have_text(found)
        expect(page.locator("#tiles .tile").first).to_be_visible()
