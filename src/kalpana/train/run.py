"""What surrounds the training loop: the log of a run, stop signals, and errors in one line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kalpana.train.task import Metrics
from kalpana.types import KalpanaError


@contextmanager
def one_line_errors(out: Path) -> Iterator[None]:
    """Context in which failures of disks and of numbers become KalpanaErrors."""
    try:
        yield
    except FloatingPointError as error:
        raise KalpanaError(str(error)) from None
    except SafetensorError as error:  # safetensors' own, for a disk that is full
        raise KalpanaError(f"cannot write the weights in {out}: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise KalpanaError(f"cannot read or write {error.filename or out}: {reason}") from None


class Log:
    """Log of a run: log.jsonl, one line per report, and TensorBoard files where it is installed.

    What an earlier process logged after ``step``, the step of its last checkpoint, is cut off.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        self._cut(step)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(out), purge_step=step + 1)

    def _cut(self, step: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if _step(line) <= step)
        if kept != "".join(lines):
            partial = self.path.with_name(f".{self.path.name}.part")
            partial.write_text(kept, encoding="utf-8")
            partial.replace(self.path)

    def write(self, step: int, metrics: Metrics) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.board:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board:
            self.board.close()


def _step(line: str) -> float:
    """Step of a line of the log; infinite for one that was not written to its end."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Context that yields a list, to which SIGINT, SIGTERM and SIGHUP append instead of ending the
    process; SIGHUP stays ignored where it is, as by nohup.

    The loop then finishes its step, saves a checkpoint and returns.
    """
    stop: list[int] = []
    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        kinds.append(signal.SIGHUP)
    before = {
        kind: signal.signal(kind, lambda number, frame: stop.append(number)) for kind in kinds
    }
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
