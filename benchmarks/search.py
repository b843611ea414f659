"""Vector search, ten of a million: build time, bytes, latency and recall, beside faiss."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measure import Row, main
from PIL import Image

from kalpana.understand import store as stores
from kalpana.understand.database import Tuned
from kalpana.understand.store import Store, writing

# Vector size, number of clusters, and directions in which a cluster spreads.
WIDTH, GROUPS, INNER = (192, 2000, 24)
ASKED, TOP, CHUNK = 200, 10, 20_000
Find = Callable[[np.ndarray], np.ndarray]  # a vector (d,) to the indices of its nearest rows


@dataclass(frozen=True)
class Synthetic:
    """An encoder of synthetic vectors that are clustered like those of pictures.

    The clusters have very different sizes, lie around a common direction, and spread in a few
    directions of their own.
    """

    name: str = "synthetic"
    fingerprint: str = "0" * 64
    size: int = WIDTH

    def vectors(self, n: int, seed: int) -> np.ndarray:
        """Unit vectors (n, d) in float32; another seed gives other vectors of the same clusters."""
        fixed, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
        centres = fixed.standard_normal((GROUPS, WIDTH), dtype=np.float32)
        centres = centres + 1.5 * fixed.standard_normal(WIDTH, dtype=np.float32)
        spread = fixed.standard_normal((GROUPS, INNER, WIDTH), dtype=np.float32) / INNER**0.5
        share = 1 / np.arange(1, GROUPS + 1)
        group = np.sort(rng.choice(GROUPS, n, p=share / share.sum()))
        out = centres[group] + 0.1 * rng.standard_normal((n, WIDTH), dtype=np.float32)
        edges = np.searchsorted(group, np.arange(GROUPS + 1))
        for k, (start, end) in enumerate(pairwise(edges.tolist())):
            inner = rng.standard_normal((end - start, INNER), dtype=np.float32)
            out[start:end] += 0.6 * inner @ spread[k]
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out[rng.permutation(n)]

    def images(self, pictures: list[Image.Image]) -> torch.Tensor:
        raise NotImplementedError  # part of the protocol; never called, vectors are given

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.vectors(len(texts), seed=2))


def rows(quick: bool) -> Iterator[Row]:
    if find_spec("lancedb") is None:
        print(
            "benchmarks/search.py is left out: it needs pip install 'kalpana[search]'",
            file=sys.stderr,
        )
        return
    n, encoder = 5_000 if quick else 1_000_000, Synthetic()
    vectors, asked = encoder.vectors(n, seed=0), encoder.vectors(ASKED, seed=1)
    best = np.concatenate(
        [np.argsort(-(part @ vectors.T), axis=1)[:, :TOP] for part in np.split(asked, ASKED // 10)]
    )
    how = f"{n:,} vectors of {WIDTH} fp32, {torch.get_num_threads()} threads"
    stores.EXACT = min(stores.EXACT, n)
    with tempfile.TemporaryDirectory() as folder, writing(Path(folder), encoder, None) as store:
        start = time.perf_counter()
        for k in range(0, n, CHUNK):
            _put(store, vectors[k : k + CHUNK], k)
        store.tidy()
        yield Row(
            "search: writing",
            f"{n / (time.perf_counter() - start):,.0f} vectors/s",
            "–",
            f"{how}, {CHUNK:,} at a time, tidied",
        )
        yield Row(
            "search: on disk, exact",
            f"{_bytes(Path(folder)) / n:.0f} bytes a vector",
            "–",
            f"{how}; {4 * WIDTH} are the vector",
        )

        def found(vector: np.ndarray, tuned: Tuned | None) -> np.ndarray:
            return np.array(
                [int(row["path"]) for row in store.nearest(vector, TOP, ["path"], tuned=tuned)]
            )

        yield _asking(
            "search: exact", lambda vector: found(vector, None), asked[:20], best, "–", how
        )
        start = time.perf_counter()
        store.approximate(encoder)
        store.tidy()
        tuned = store.tuned
        assert tuned
        ways = (
            f"{how}; {tuned.probes} of about {n // tuned.part} partitions, "
            f"{tuned.refine} times as many compared exactly"
        )
        yield Row(
            "search: approximate index, built and tuned",
            f"{time.perf_counter() - start:.0f} s",
            "–",
            ways,
        )
        yield Row(
            "search: on disk, approximate",
            f"{_bytes(Path(folder)) / n:.0f} bytes a vector",
            "–",
            how,
        )
        yield _asking(
            "search: approximate",
            lambda vector: found(vector, tuned),
            asked,
            best,
            "recall ≥ 0.99",
            ways,
        )
    yield from _faiss(vectors, asked, best, how)


def _faiss(vectors: np.ndarray, asked: np.ndarray, best: np.ndarray, how: str) -> Iterator[Row]:
    """The rows of faiss, in memory: exact search, and an inverted file (IVF) with recall ≥ 0.99."""
    if find_spec("faiss") is None:
        print("faiss is left out: pip install faiss-cpu", file=sys.stderr)
        return
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    yield _asking(
        "faiss: flat", lambda vector: flat.search(vector[None], TOP)[1][0], asked, best, "–", how
    )
    parts, start = round(len(vectors) ** 0.5), time.perf_counter()
    coarse = faiss.IndexFlatIP(WIDTH)
    index = faiss.IndexIVFFlat(coarse, WIDTH, parts, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(len(vectors) // (256 * parts), 1)])
    index.add(vectors)
    yield Row(
        "faiss: IVF, built",
        f"{time.perf_counter() - start:.0f} s",
        "–",
        f"{how}; {parts} partitions",
    )
    yield Row(
        "faiss: IVF, in memory",
        f"{len(faiss.serialize_index(index)) / len(vectors):.0f} bytes a vector",
        "–",
        how,
    )
    index.nprobe = 1
    while _recall(index.search(asked, TOP)[1], best) < 0.99 and index.nprobe < parts:
        index.nprobe *= 2
    ways = f"{how}; {index.nprobe} of {parts} partitions"
    yield _asking(
        "faiss: IVF",
        lambda vector: index.search(vector[None], TOP)[1][0],
        asked,
        best,
        "recall ≥ 0.99",
        ways,
    )


def _put(store: Store, vectors: np.ndarray, start: int) -> None:
    """Add rows that hold only a vector and a path, which is the index of the row."""
    import pyarrow as pa

    schema, count = store.table.schema, len(vectors)
    columns = {name: pa.nulls(count, schema.field(name).type) for name in schema.names}
    columns["path"] = pa.array([b"%d" % (start + k) for k in range(count)], pa.binary())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    store.table.add(pa.table(columns, schema))


def _asking(
    what: str, find: Find, asked: np.ndarray, best: np.ndarray, target: str, how: str
) -> Row:
    """The row with latency and recall of single queries.

    Each query is timed at its second run, when the data that it needs are in memory.
    """
    answers = np.stack([find(vector) for vector in asked])
    taken = []
    for vector in asked:
        start = time.perf_counter()
        find(vector)
        taken.append(time.perf_counter() - start)
    p50, p95 = np.percentile(taken, (50, 95)) * 1000
    return Row(
        what,
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, recall@{TOP} {_recall(answers, best):.3f}",
        target,
        how,
    )


def _recall(answers: np.ndarray, best: np.ndarray) -> float:
    """Mean recall@TOP of answers (n, TOP) in [0, 1]."""
    pairs = zip(answers.tolist(), best.tolist(), strict=False)
    return float(np.mean([len(set(found) & set(true)) / TOP for found, true in pairs]))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(rows)
