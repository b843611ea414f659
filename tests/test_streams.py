"""Standard streams of the command line: encodings, closed streams, pipes, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kalpana.cli.console import prepare, print_json

HINDI = "लाल सेब"
ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells, locales and signals")


def kalpana(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kalpana", *arguments],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_can_be_printed_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding))
    prepare()
    print_json({"prompt": f"{HINDI} é", "path": os.fsdecode(b"\xff.png")})
    sys.stdout.flush()
    assert isinstance(sys.stdout.buffer, io.BytesIO)
    printed = json.loads(sys.stdout.buffer.getvalue().decode(encoding))
    assert printed == {"prompt": f"{HINDI} é", "path": "\udcff.png"}
    print(HINDI, file=sys.stderr, flush=True)
    assert isinstance(sys.stderr.buffer, io.BytesIO)
    assert sys.stderr.buffer.getvalue() == f"{HINDI}\n".encode(encoding, "backslashreplace")


@pytest.mark.slow
def test_an_error_in_hindi_is_one_line_of_ascii() -> None:
    wrong = kalpana("metadata", f"{HINDI}.png", PYTHONIOENCODING="ascii")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count(b"\n")) == (2, b"", 1)
    assert HINDI.encode("ascii", "backslashreplace") in wrong.stderr


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("utf8", ["", "0"], ids=["as Python decides", "without UTF-8 mode"])
def test_a_hindi_argument_is_read_as_utf_8_in_the_c_locale(utf8: str, tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    sheet = tmp_path / HINDI
    done = kalpana("world", "show", "-n", "1", "--out", str(sheet), **plain)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in sheet.iterdir()] == [".png"]


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_the_null_device(closed: str, tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m kalpana"
    shown = f"{command} world show -n 1 --out '{tmp_path}' {closed}"
    done = subprocess.run(["bash", "-c", shown], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    # A file opened by the program never takes the place of a closed stream.
    (picture,) = tmp_path.iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@POSIX
def test_prompts_from_a_closed_stdin_are_none() -> None:
    command = f"'{sys.executable}' -m kalpana generate - <&-"
    wrong = subprocess.run(["bash", "-c", command], capture_output=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith(b"error: there is no prompt")


@pytest.mark.slow
@POSIX
def test_a_reader_that_ends_early_is_no_error() -> None:
    command = f"'{sys.executable}' -m kalpana models --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert (done.stdout, done.stderr) == (b"[", b"") and done.returncode in (0, 1)


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--file", "FIFO"],
        ["classify", ".", "--labels-file", "FIFO"],
        ["metadata", "FIFO"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_ctrl_c_is_exit_code_130(arguments: list[str], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    command = [str(fifo) if argument == "FIFO" else argument for argument in arguments]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "kalpana", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        ) as run,
        fifo.open("wb"),
    ):  # returns when the command has opened it, and waits for data
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate()
    assert (run.returncode, stdout, stderr) == (130, b"", b"stopped\n")


@pytest.mark.slow
def test_the_version_and_the_completion_are_printed() -> None:
    assert kalpana("--version").stdout.decode().split() == ["kalpana", "0.1.0"]
    assert b"complete" in kalpana(_KALPANA_COMPLETE="source_bash").stdout
    script = kalpana(
        COMP_WORDS="kalpana weights s", COMP_CWORD="2", _KALPANA_COMPLETE="complete_bash"
    )
    assert script.stdout.split() == [b"seal"]
