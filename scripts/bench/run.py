"""Compare qatune with what else one could take, on this machine.

    python scripts/bench/run.py [training|generation|preprocess] [--rounds 3]

Without a name all parts are run: an hour on two cores. The comparators, in comparators/,
are written as their libraries' documentation does. Training and generation take SmolLM2-135M and,
where there is a GPU, random weights in the shapes of larger models, and the rows of `make demo`, or
those of mbpp.csv in the folder QATUNE_TEST_DATA; preprocess takes a CSV that make_reference_csv.py
writes. The results go to --json and, as tables, to --markdown.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import machine  # noqa: E402
import tables  # noqa: E402
from harness import race, summary  # noqa: E402
from parts import PARTS, TARGETS, Asked  # noqa: E402
from shapes import SHAPES, make  # noqa: E402

import make_reference_csv  # noqa: E402

CACHE = Path("~/.cache/qatune").expanduser()


def main() -> None:
    options = parsed()
    results: dict[str, Any] = {
        "machine": machine.described(), "versions": machine.versions(), "parts": {}
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="qatune-bench-") as name:
        asked = asked_of(options, Path(name))
        for title, part, of in turns(options.part, asked, options.shapes):
            results["parts"][title] = compared(part, of, options.rounds)
            write(results, options.json, options.markdown)
    print(options.markdown.read_text(encoding="utf-8"))


def turns(
    part: str | None, asked: Asked, shapes: Sequence[str]
) -> Iterator[tuple[str, str, Asked]]:
    """Yield title, name and input of each comparison: of the model, then of the shapes."""
    parts = [part] if part else list(PARTS)
    yield from ((name, name, asked) for name in parts)
    for shape in shapes:
        folder = make(SHAPES[shape], asked.model, asked.work / shape)
        of = replace(
            asked, model=folder, work=asked.work / f"{shape}-work", targets=SHAPES[shape].targets
        )
        of.work.mkdir()
        yield from ((f"{name}, {shape}", name, of) for name in parts if name != "preprocess")
        shutil.rmtree(folder)


def compared(name: str, asked: Asked, rounds: int) -> dict[str, Any]:
    part = PARTS[name](asked)
    runs = race(part, rounds)
    return {
        "setting": part.setting,
        "model": asked.model.name,
        "rounds": rounds,
        "rate": part.rate,
        "shown": part.shown,
        "summary": summary(part, runs),
        "runs": runs,
    }


def write(results: dict[str, Any], as_json: Path, as_markdown: Path) -> None:
    for path, text in (
        (as_json, json.dumps(results, indent=1)),
        (as_markdown, tables.page(results)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=CACHE / "models/smollm2-135m-instruct")
    parser.add_argument("--csv", type=Path, default=_rows())
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=_shapes())
    parser.add_argument("--training-rows", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--preprocess-rows", type=int, default=20_000)
    parser.add_argument("--targets", nargs="+", default=TARGETS, help="layers that get an adapter")
    parser.add_argument("--json", type=Path, default=ROOT / "out/bench.json")
    parser.add_argument("--markdown", type=Path, default=ROOT / "out/bench.md")
    return parser.parse_args()


def _shapes() -> list[str]:
    return list(SHAPES) if torch.cuda.is_available() else []


def _rows() -> Path:
    given = os.environ.get("QATUNE_TEST_DATA")
    return Path(given) / "mbpp.csv" if given else CACHE / "demo/python-docs.csv"


def asked_of(options: argparse.Namespace, work: Path) -> Asked:
    large, size = work / "large.csv", options.preprocess_rows
    if options.part in {None, "preprocess"}:
        make_reference_csv.write(large, usable=size, short=size // 5, nulls=size // 90)
    return Asked(
        model=options.model,
        source=options.csv,
        large=large,
        work=work,
        training_rows=options.training_rows,
        prompts=options.prompts,
        new_tokens=options.new_tokens,
        targets=options.targets,
    )


if __name__ == "__main__":
    main()
