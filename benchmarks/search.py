"""Finding ten of a million vectors: time to build, bytes, latency and recall of an index, beside faiss in the same process."""

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
from kalpana.understand.store import Store, writing

WIDTH, GROUPS, INNER = (
    192,
    2000,
    24,
)  # numbers in a vector, clusters, and directions in which a cluster spreads
ASKED, TOP, CHUNK = 200, 10, 20_000
Find = Callable[[np.ndarray], np.ndarray]  # a vector (d,) to the numbers of the rows nearest to it


@dataclass(frozen=True)
class Synthetic:
    """Vectors clustered as those of pictures are: groups of very unequal sizes around a common direction, each spreading in a few
    directions of its own."""

    name: str = "synthetic"
    fingerprint: str = "0" * 64
    size: int = WIDTH

    def vectors(self, n: int, seed: int) -> np.ndarray:
        """(n, d) float32, of length 1; another seed gives others of the same groups."""
        fixed, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
        centres = fixed.standard_normal(
            (GROUPS, WIDTH), dtype=np.float32
        ) + 1.5 * fixed.standard_normal(WIDTH, dtype=np.float32)
        spread = fixed.standard_normal((GROUPS, INNER, WIDTH), dtype=np.float32) / INNER**0.5
        share = 1 / np.arange(1, GROUPS + 1)
        group = np.sort(rng.choice(GROUPS, n, p=share / share.sum()))
        out = centres[group] + 0.1 * rng.standard_normal((n, WIDTH), dtype=np.float32)
        edges = np.searchsorted(group, np.arange(GROUPS + 1))
        for k, (start, end) in enumerate(pairwise(edges.tolist())):
            out[start:end] += (
                0.6 * rng.standard_normal((end - start, INNER), dtype=np.float32) @ spread[k]
            )
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out[rng.permutation(n)]

    def images(self, pictures: list[Image.Image]) -> torch.Tensor:
        raise NotImplementedError  # of the protocol, and never called: here vectors are written, and nobody looks at a picture

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
        [np.argsort(-(some @ vectors.T), axis=1)[:, :TOP] for some in np.split(asked, ASKED // 10)]
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

        def found(vector: np.ndarray, tuned: stores.Tuned | None) -> np.ndarray:
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
        ways = f"{how}; {tuned.probes} of about {n // tuned.part} partitions, {tuned.refine} times as many compared exactly"
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
    """The same by faiss, in memory: every vector compared, and an inverted file with as many partitions and enough probes."""
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
    """Add rows that have nothing but a path, which is their number, and a vector."""
    import pyarrow as pa

    schema, count = store.table.schema, len(vectors)
    columns = {name: pa.nulls(count, schema.field(name).type) for name in schema.names}
    columns["path"] = pa.array([b"%d" % (start + k) for k in range(count)], pa.binary())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    store.table.add(pa.table(columns, schema))


def _asking(
    what: str, find: Find, asked: np.ndarray, best: np.ndarray, target: str, how: str
) -> Row:
    """Latency and recall of one question after another, each asked for the second time, when what it needs is in memory."""
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
    return float(
        np.mean(
            [
                len(set(some) & set(true)) / TOP
                for some, true in zip(answers.tolist(), best.tolist(), strict=False)
            ]
        )
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(rows)
