"""The ``evaluate`` commands that measure verifiers and text readers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.evaluate import evaluating


@evaluating.command("verifier-errors")
def verifier_errors(
    folder: Annotated[Path, typer.Argument(help="a verifier's folder of weights")],
    renders: Annotated[int, typer.Option(min=1, help="pictures of each attribute")] = 2000,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="measure this row only and keep the others; repeatable"),
    ] = None,
) -> None:
    """Measure a verifier's error rates on renders, and write them into its errors.json."""
    from kalpana.evaluate.verifiers.verifier_errors import publish

    print(publish(folder, renders, only=only or ()), end="")


@evaluating.command("audit")
def audit(
    run: Annotated[Path, typer.Argument(help="the folder of a run of kalpana evaluate")],
    pictures: Annotated[int, typer.Option(min=1, help="how many pictures")] = 100,
) -> None:
    """Compare a run's verdicts with a person's: first writes sheets and a table to fill in."""
    from kalpana.evaluate.verifiers.audit import audit as comparison

    print(comparison(run, pictures), end="")


@evaluating.command("eye-labels")
def eye_labels(
    verifiers: Annotated[
        list[Path],
        typer.Argument(
            metavar="VERIFIER...", help="folders of verifiers, such as weights/verifier-b"
        ),
    ],
    pack: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="first rebuild the set from this table and the pictures beside it"
        ),
    ] = None,
) -> None:
    """Measure verifiers on 200 generated pictures with human labels."""
    from kalpana.evaluate.verifiers import eye_labels as labels
    from kalpana.evaluate.verifiers.verifier import DetectorVerifier

    if pack:
        print(f"{labels.pack(pack)} pictures")
    for folder in verifiers:
        print(f"{folder.name}: {labels.agreement(DetectorVerifier.load(folder)).markdown()}")


@evaluating.command("ocr")
def ocr(
    signs: Annotated[
        int, typer.Option(min=1, max=200, help="signs of each script, at most 200")
    ] = 200,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="the dev signs, on which the readers were tuned, not the test"),
    ] = False,
) -> None:
    """Measure the error rates of the external OCR engines on signs."""
    from kalpana.evaluate.verifiers.ocr import table

    print(table(signs, dev), end="")
