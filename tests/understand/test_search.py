"""Search results equal those of brute force on the same embeddings, for all queries and filters."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from typer.testing import CliRunner

import kalpana
from kalpana import media
from kalpana.cli import app
from kalpana.types import KalpanaError
from kalpana.understand import search as engine
from kalpana.understand.folder import File, Read, read_image
from kalpana.understand.index import index
from kalpana.understand.search import Hit, SearchFilter, Term, duplicates, parse, search
from kalpana.understand.store import writing

Paint = Callable[..., Path]


def names(hits: list[Hit]) -> list[str]:
    return [hit.path.name for hit in hits]


@pytest.fixture
def gallery(tmp_path: Path, paint: Paint, colours: Any) -> Path:
    """Indexed folder: eight pictures of one colour, three of two, and two with a receipt."""
    for name in colours.named:
        paint(tmp_path / "plain" / f"{name}.png", name)
    for pair in ("red-blue", "red-green", "blue-yellow"):
        paint(tmp_path / "pairs" / f"{pair}.png", *pair.split("-"), size=(64, 48))
    for k, (prompt, model) in enumerate(
        (('A Red apple, it\'s "here"', "default"), ("लाल सेब", "tiny"))
    ):
        receipt = {"request": {"prompt": prompt}, "model": {"name": model}, "seed": 7 + k}
        media.save(Image.new("RGB", (128, 128), (220, 30, 30)), tmp_path / f"made{k}.png", receipt)
    index(tmp_path, colours)
    return tmp_path


# ----------------------------------------------------------------------------------------- queries


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a cat", [(1, "a cat")]),
        ("cat + night - street", [(1, "cat"), (1, "night"), (-1, "street")]),
        ("- street", [(-1, "street")]),
        ("cat + 0.5*night", [(1, "cat"), (0.5, "night")]),
        ("cat - 2*night sky", [(1, "cat"), (-2, "night sky")]),
        ('"cat + dog"', [(1, "cat + dog")]),
        ('a - "b - c" + 3*"d + e"', [(1, "a"), (-1, "b - c"), (3, "d + e")]),
        ('a sign that says "A - B" + cat', [(1, 'a sign that says "A - B"'), (1, "cat")]),
        ("a black-and-white cat+dog", [(1, "a black-and-white cat+dog")]),
        ("5* hotel", [(1, "5* hotel")]),
        ("बिल्ली - रात\n", [(1, "बिल्ली"), (-1, "रात")]),
    ],
)
def test_a_query_is_a_sum_of_terms(query: str, terms: list[tuple[float, str]]) -> None:
    assert parse(query) == tuple(Term(weight, words) for weight, words in terms)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query has no words"),
        (" \n", "the query has no words"),
        ('""', "has no words"),
        ("cat +", r"no words after '\+'"),
        ("cat + - dog", r"no words after '\+'"),
        ("+", r"no words after '\+'"),
        ('say "hi', "a quote that is not closed"),
        ("red - red", "cancel out"),
    ],
)
def test_a_query_that_asks_nothing_is_told(
    query: str, message: str, gallery: Path, colours: Any
) -> None:
    with pytest.raises(KalpanaError, match=message):
        search(gallery, query, colours)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("+-"),
            st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1),
        ),
        min_size=1,
    )
)
def test_words_in_quotes_come_back_as_they_are(terms: list[tuple[str, str]]) -> None:
    clean = [(sign, " ".join(engine.clean(words).split())) for sign, words in terms]
    wanted = [(sign, words) for sign, words in clean if words]
    if wanted:
        query = " ".join(f'{sign} "{words}"' for sign, words in wanted)
        assert parse(query) == tuple(
            Term(1.0 if sign == "+" else -1.0, words) for sign, words in wanted
        )


@pytest.mark.slow
def test_hits_are_those_of_brute_force_for_words_pictures_and_sums(
    gallery: Path, colours: Any
) -> None:
    paths = sorted(gallery.rglob("*.png"))
    vectors = colours.images([read_image(path) for path in paths])
    picture = gallery / "pairs" / "red-green.png"
    asked: dict[str, tuple[Any, torch.Tensor]] = {
        "words": ("red", colours.texts(["red"])[0]),
        "hindi": ("नीला", colours.texts(["blue"])[0]),
        "sum": (
            "red + 2*blue - 0.5*green",
            colours.texts(["red", "blue", "green"]).T @ torch.tensor([1, 2, -0.5]),
        ),
        "picture": ([Term(picture=picture)], colours.images([read_image(picture)])[0]),
        "both": (
            [Term(picture=picture), Term(-1.0, "red")],
            colours.images([read_image(picture)])[0] - colours.texts(["red"])[0],
        ),
    }
    for query, vector in asked.values():
        cosines = vectors @ (vector / vector.norm())
        hits = search(gallery, query, colours, n=5)
        assert np.allclose(
            [hit.score for hit in hits], cosines.sort(descending=True).values[:5], atol=1e-5
        )
        for hit in hits:
            assert hit.score == pytest.approx(float(cosines[paths.index(hit.path)]), abs=1e-5)
    assert names(search(gallery, "red + blue", colours, n=1)) == ["red-blue.png"]
    assert names(search(gallery, [Term(picture=picture), Term(-1.0, "red")], colours, n=1)) == [
        "green.png"
    ]


def test_search_in_python_indexes_what_is_new(tmp_path: Path, paint: Paint, colours: Any) -> None:
    paint(tmp_path / "red.png", "red")
    paint(tmp_path / "blue.png", "blue")
    assert names(kalpana.search("red", str(tmp_path), n=1, model=colours)) == ["red.png"]
    paint(tmp_path / "deep/green.png", "green")
    assert len(kalpana.search("हरा", tmp_path, model=colours, update=False)) == 2
    assert names(kalpana.search("हरा", tmp_path, n=1, model=colours)) == ["green.png"]
    assert colours.looked == 3  # each picture once
    only = SearchFilter(folder=Path("deep"))
    assert names(kalpana.search("red", tmp_path, model=colours, only=only)) == ["green.png"]


def test_a_run_that_tidies_up_meanwhile_is_no_hindrance(
    gallery: Path, paint: Paint, colours: Any
) -> None:
    """An index run deletes the opened files while the query is embedded."""

    class Late(type(colours)):  # type: ignore[misc]
        def texts(self, texts: list[str]) -> torch.Tensor:
            paint(gallery / "late.png", "purple", "white")
            index(gallery, colours)
            return super().texts(texts)

    assert names(search(gallery, "purple + white", Late(), n=1)) == ["late.png"]


@pytest.mark.slow
def test_filters_choose_exactly(gallery: Path, colours: Any) -> None:
    os.utime(gallery / "plain" / "red.png", (1e9, 1e9))  # 2001-09-09
    index(gallery, colours)
    everything = search(gallery, "red", colours, n=100)
    assert len(everything) == 13

    def chosen(**fields: Any) -> list[str]:
        hits = search(gallery, "red", colours, n=100, only=SearchFilter(**fields))
        # Filtered hits have the same order.
        assert [hit.path for hit in hits] == [hit.path for hit in everything if hit in hits]
        return sorted(names(hits))

    pairs = ["blue-yellow.png", "red-blue.png", "red-green.png"]
    assert chosen(folder=Path("pairs")) == chosen(folder=gallery / "pairs") == pairs
    assert chosen(folder=Path(".")) == sorted(names(everything))
    assert (
        chosen(smallest=48) == sorted([*pairs, "made0.png", "made1.png"])
        and chosen(smallest=49, largest=127) == []
    )
    assert chosen(smallest=48, largest=64) == pairs and len(chosen(largest=47)) == 8
    assert (
        chosen(until="2001")
        == chosen(until="2001-09")
        == chosen(since="2001-09-08", until="2001-09-10")
        == ["red.png"]
    )
    assert len(chosen(since="2001-10")) == 12 and chosen(since="2001-09-11", until="2002") == []
    assert chosen(prompt="Ｒed\u200b  apple") == ["made0.png"]
    assert chosen(prompt="red APPLE") == chosen(prompt='it\'s "here"') == ["made0.png"] and chosen(
        prompt="सेब"
    ) == ["made1.png"]
    assert chosen(prompt="' OR '1'='1") == chosen(prompt="%") == []
    assert chosen(model="tiny") == ["made1.png"] and chosen(model="TINY' --") == []
    assert chosen(prompt="apple", model="tiny") == []


def test_filters_alone_give_the_latest(gallery: Path, colours: Any) -> None:
    hits = search(gallery, (), colours, only=SearchFilter(prompt="e"), n=5)
    assert names(hits) == ["made0.png"] and hits[0].score is None
    assert (hits[0].prompt, hits[0].model, hits[0].seed) == (
        'A Red apple, it\'s "here"',
        "default",
        7,
    )
    latest = search(gallery, (), colours, only=SearchFilter(since="2002"), n=13)
    assert [hit.date for hit in latest] == sorted((hit.date for hit in latest), reverse=True)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (SearchFilter(folder=Path("nowhere")), "there is no folder nowhere in"),
        (SearchFilter(folder=Path("..")), "there is no folder .. in"),
        (SearchFilter(since="yesterday"), "date 'yesterday' should be a day, a month or a year"),
        (SearchFilter(until="2026-02-30"), "date '2026-02-30' should be"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told(
    only: SearchFilter, message: str, gallery: Path, colours: Any
) -> None:
    with pytest.raises(KalpanaError, match=message):
        search(gallery, "red", colours, only=only)


def test_a_receipt_that_is_strange_hides_no_picture(tmp_path: Path, colours: Any) -> None:
    strange = [
        '{"request": 3}',
        '{"request": {"prompt": 5}, "model": [], "seed": "x"}',
        r'{"request": {"prompt": "\ud800x"}, "seed": -1}',
    ]
    for k, text in enumerate(strange):
        receipt = PngImagePlugin.PngInfo()
        receipt.add_itxt(media.KEY, text)
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{k}.png", pnginfo=receipt)
    (tmp_path / "3.jpg.json").write_text("[")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "3.jpg")
    assert index(tmp_path, colours).pictures == 4
    assert {hit.seed for hit in search(tmp_path, "red", colours)} == {None}


# -------------------------------------------------------------------------------------- duplicates


@pytest.mark.slow
def test_near_duplicates_are_the_connected_parts_of_the_graph_of_those_alike(
    tmp_path: Path, colours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with scipy's connected components, including chains whose ends are not alike."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, colours.size)).repeat(5, axis=0)
    vectors = centres + 0.25 * rng.standard_normal((300, colours.size))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors = vectors[rng.permutation(300)]
    facts = {
        "height": 1,
        "date": "2026",
        "prompt": None,
        "words": None,
        "model": None,
        "seed": None,
    }
    for k in range(300):
        (tmp_path / str(k)).touch()
    with writing(tmp_path, colours, None) as store:
        store.write(
            [
                (Read(File(b"%d" % k, 1, 1), b"%d" % k, {"width": k, **facts}, None), v)
                for k, v in enumerate(vectors)
            ],
            replace=False,
        )
    parts = connected_components(csr_array(vectors @ vectors.T >= 0.97))[1]
    wanted = sorted(
        sorted(np.flatnonzero(parts == part).tolist())
        for part in set(parts)
        if (parts == part).sum() > 1
    )
    assert 10 < len(wanted) < 60 and {2, 5} < {len(group) for group in wanted}
    for strip, wide in ((engine.STRIP, engine.WIDE), (7, 11)):
        monkeypatch.setattr(engine, "STRIP", strip)
        monkeypatch.setattr(engine, "WIDE", wide)
        groups = duplicates(tmp_path, colours, alike=0.97)
        assert sorted(sorted(int(hit.path.name) for hit in group) for group in groups) == wanted
        for group in groups:
            assert group[0].width == max(hit.width for hit in group) and group[
                0
            ].score == pytest.approx(1, abs=1e-6)
    assert (
        len(duplicates(tmp_path, colours, alike=-1)) == 1
        and len(duplicates(tmp_path, colours, alike=-1)[0]) == 300
    )


def test_files_that_are_gone_are_not_found(gallery: Path, colours: Any) -> None:
    """Even if all the best pictures are gone, as many as wanted are found."""
    every = search(gallery, "red", colours, n=100)
    for hit in every[:5]:
        hit.path.unlink()
    assert search(gallery, "red", colours, n=2) == every[5:7]
    assert search(gallery, "red", colours, n=100) == every[5:]
    gone = {hit.path for hit in every[:5]}
    latest = search(gallery, [], colours, n=100, only=SearchFilter(smallest=1))
    assert len(latest) == len(every) - 5 and not gone & {hit.path for hit in latest}
    groups = duplicates(gallery, colours, alike=0.5)
    assert groups and not gone & {hit.path for group in groups for hit in group}


def test_copies_are_found_and_others_are_not(gallery: Path, colours: Any) -> None:
    groups = duplicates(gallery, colours, alike=0.999)
    assert [names(group) for group in groups] == [["made0.png", "made1.png", "red.png"]]
    assert duplicates(gallery, colours, alike=0.999, only=SearchFilter(folder=Path("pairs"))) == []


# ----------------------------------------------------------------------------------------- display


@pytest.mark.slow
def test_pictures_reach_a_terminal_whole(gallery: Path, colours: Any) -> None:
    hits = search(gallery, "red", colours, n=3)
    sheet = np.asarray(engine.sheet(hits))
    kitty = engine.drawn(hits, {"TERM": "xterm-kitty"}, 80)
    assert isinstance(kitty, str)
    parts = [
        part.removeprefix("\x1b_G").partition(";")
        for part in kitty.strip("\n").split("\x1b\\")[:-1]
    ]
    assert parts[0][0].startswith("a=T,f=100,") and [control[-3:] for control, _, _ in parts] == [
        "m=1"
    ] * (len(parts) - 1) + ["m=0"]
    assert max(len(data) for _, _, data in parts) <= 4096
    iterm = engine.drawn(hits, {"TERM_PROGRAM": "iTerm.app"}, 80)
    assert (
        isinstance(iterm, str)
        and iterm.startswith("\x1b]1337;File=inline=1:")
        and iterm.endswith("\x07\n")
    )
    for data in ("".join(data for _, _, data in parts), iterm.strip("\x07\n").partition(":")[2]):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), sheet)
    for terminal in (
        {"TERM": "xterm-256color"},
        {"TERM": "screen", "TERM_PROGRAM": "iTerm.app"},
        {"TERM": "xterm-kitty", "TMUX": "x"},
    ):
        assert not isinstance(engine.drawn(hits, terminal, 80), str)


def test_half_blocks_have_the_colours_of_the_picture() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8))
    text, levels = engine.blocks(image, 80), np.asarray(image)
    lines = text.split("\n")
    assert [line.plain for line in lines] == ["▀" * 5] * 4
    for y, line in enumerate(lines):
        for span in line.spans:
            style, x = span.style, span.start
            assert tuple(style.color.triplet) == tuple(levels[2 * y, x])  # type: ignore[union-attr]
            assert tuple(style.bgcolor.triplet) == (
                tuple(levels[2 * y + 1, x]) if y < 3 else (0, 0, 0)
            )  # type: ignore[union-attr]
    tall = engine.blocks(Image.new("RGB", (100, 4000)), 80)
    assert tall.plain.count("\n") <= engine.LINES and max(map(len, tall.plain.split("\n"))) <= 80


@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_without_colours_shows_no_pictures(
    terminal: dict[str, str], gallery: Path, colours: Any
) -> None:
    assert engine.drawn(search(gallery, "blue", colours, n=2), terminal, 80) == ""


def test_a_sheet_shows_every_hit_and_a_grey_one_for_a_file_that_is_gone(
    gallery: Path, colours: Any
) -> None:
    hits = search(gallery, "blue", colours, n=2)
    hits[1].path.unlink()
    shown, gone = engine.thumbnails(hits)
    assert shown.getpixel((128, 128)) == (30, 60, 220) and gone.getpixel((128, 128)) == (
        128,
        128,
        128,
    )
    with pytest.raises(KalpanaError, match="too many for a sheet"):
        engine.sheet(hits * 1000)


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    hit = Hit(
        tmp_path / "a\x1b[2J\nb.png",
        0.5,
        1,
        1,
        "2026-01-01T00:00:00",
        "red\x1b[0m 👩‍🚀",
        None,
        None,
    )
    line = engine.table([hit])
    assert "\x1b" not in line and "\n" not in line and r"a\x1b[2J\nb.png" in line and "👩‍🚀" in line


# ------------------------------------------------------------------------------------ command line


@pytest.fixture
def typed(colours: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Function that runs ``kalpana search`` with the encoder of these tests."""
    loading = SimpleNamespace(load=lambda name, device: replace(colours, name=name))
    monkeypatch.setitem(sys.modules, "kalpana.understand.encoder", loading)
    return lambda *arguments, stdin="": CliRunner().invoke(
        app,
        ["search", *arguments, *(["--model", "colours"] if "--" not in arguments else [])],
        input=stdin,
    )


@pytest.mark.slow
def test_a_folder_is_indexed_and_searched_by_typing(
    gallery: Path, typed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (gallery / "broken.png").write_text("x")
    done = typed("index", str(gallery))
    assert done.exit_code == 0 and done.stdout == "13 pictures: 0 new, 0 changed, 0 moved, 0 gone\n"
    assert done.stderr == "not indexed: broken.png: it is no picture\n"
    report = json.loads(typed("index", str(gallery), "--json").stdout)
    assert (report["pictures"], report["broken"]) == (
        13,
        [{"path": "broken.png", "reason": "it is no picture"}],
    )
    monkeypatch.chdir(gallery)
    done = typed("लाल + नीला", "-n", "1")
    assert (
        done.exit_code == 0
        and done.stderr == ""
        and done.stdout == f" 1.000        64x48  {done.stdout[21:31]}  pairs/red-blue.png\n"
    )
    assert typed("query", "लाल + नीला", "-n", "1").stdout == done.stdout
    assert typed("लाल", "--image", "plain/blue.png", "-n", "1").stdout == done.stdout
    assert "pairs/red-green.png" in typed("red + green + blue", "--not", "blue", "-n", "1").stdout
    (hit,) = json.loads(typed("red", "--prompt", "सेब", "--json").stdout)
    assert (hit["path"], hit["prompt"], hit["model"], hit["seed"]) == (
        "made1.png",
        "लाल सेब",
        "tiny",
        8,
    )
    assert "made0.png" in typed("--made-by", "default").stdout
    (group,) = json.loads(typed("--duplicates", "--alike", "0.999", "--json").stdout)
    assert [hit["path"] for hit in group] == ["made0.png", "made1.png", "plain/red.png"]
    done = typed("red", "--sheet", "found/red.png", "-n", "4")
    assert done.stderr == "found/red.png\n"
    with Image.open("found/red.png") as sheet:
        assert sheet.size[0] > 512
    done = typed("red dragon", "-n", "1")
    assert done.stderr == "warning: model 'colours' never met dragon\n" and done.stdout.startswith(
        " 1.000 "
    )
    only_minus = typed(
        "-n", "1", "--model", "colours", "--", "- red - green - purple - black - white - grey"
    ).stdout
    assert only_minus.endswith(("/blue.png\n", "/yellow.png\n", "/blue-yellow.png\n"))
    done = typed("red", "--min-size", "4000")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no picture fits\n")


@pytest.mark.slow
def test_paths_are_printed_alone_and_queries_read_from_stdin(
    gallery: Path, colours: Any, typed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gallery)
    odd = gallery / "नीला\n.bmp"
    Image.new("RGB", (64, 48), (30, 60, 220)).save(odd)
    typed("index", ".")
    every = [hit.path for hit in search(Path("."), "blue", colours, n=3)]
    done = typed("blue", "-n", "3", "-0")
    assert done.stdout_bytes.split(b"\0") == [*map(os.fsencode, every), b""]
    assert os.fsencode(odd.name) in done.stdout_bytes.split(b"\0")
    lines = typed("yellow", "-n", "1", "-f").stdout
    assert lines == "plain/yellow.png\n"
    both = typed("-", "-n", "1", "--paths", stdin="yellow\nलाल + नीला\n\n")
    assert both.stdout == "plain/yellow.png\npairs/red-blue.png\n"
    first, second = json.loads(typed("-", "-n", "1", "--json", stdin="yellow\nyellow\n").stdout)
    assert first == second and first[0]["path"] == "plain/yellow.png"
    shown = typed("-", "-n", "1", stdin="yellow\nred\n").stdout
    assert shown.startswith("yellow:\n 1.000 ") and "\n\nred:\n" in shown
    done = typed("blue", "--since", "2027", "--until", "2026-12")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: since 2027 is after until 2026-12, so no picture fits: exchange them\n"
    )


def test_the_help_of_search_shows_the_filters(typed: Callable[..., Any]) -> None:
    shown = CliRunner().invoke(app, ["search", "-h"]).stdout
    for option in ("--since", "--min-size", "--prompt", "--made-by", "-0, --null", "--duplicates"):
        assert option in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere"], "there is no folder nowhere"),
        (["index", "."], "there are no pictures in ."),
        (["index"], "Missing argument 'DIR'"),
        (["red"], "there is no index of .: make one with kalpana search index ."),
        (["red", "--in", "nowhere"], "there is no folder nowhere"),
        ([""], "the query has no words"),
        (["query"], "there is no query"),
        (["a", "cat"], "unexpected extra argument"),
        (["red", "--duplicates"], "leave out the query"),
        (["red", "--sheet", "x.gif"], "--sheet x.gif should end in .png, .webp, .jpg"),
        (["red", "-n", "0"], "-n"),
        (["red", "-f", "--json"], "leave out --paths"),
        (["-"], "there are no queries on stdin"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    typed: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed(*arguments)
    assert (
        done.exit_code == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and message in done.stderr
    ), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_within_an_indexed_one_says_so(gallery: Path, colours: Any) -> None:
    with pytest.raises(KalpanaError, match=r"--in .* --folder pairs"):
        search(gallery / "pairs", "red", colours)


def test_help_says_how_to_search() -> None:
    done = CliRunner().invoke(app, ["search", "--help"])
    assert done.exit_code == 0 and 'kalpana search "a cat"' in done.stdout
    assert {"index", "query"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")
    }
