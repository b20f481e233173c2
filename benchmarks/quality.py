"""What fewer bits cost in exactness: golden logits, answers about drawn scenes, and the least exact matrix.

    python benchmarks/quality.py [--model nano] [--scenes 100] [--seed 0] [--kinds ...] [--json out.json]

One row for each way of keeping weights; float32 is what the others are compared with. Figures of scenes are those of
`paligemma evaluate`, their mean is the score; nats of truth are -log p of each token of the true answers, divergence is
Kullback and Leibler's from float32 there. Golden: |ours - golden| / |golden| and the share of positions with the same
most likely token, the worse of the tiny random models below tests/data/golden. Speed stands in benchmarks/kernels_*.md
and bench_*.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from harness.quality import Seen, asked, divergence, golden, same_answers

from paligemma import load
from paligemma.train.judging.scene_questions import scene_questions

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden"
WAYS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "quantize": "int8"},
    "int4": {"dtype": "float32", "quantize": "int4"},
    "nf4": {"dtype": "float32", "quantize": "nf4"},
    "int4, head int8": {"dtype": "float32", "quantize": "vision=int8,lm=int4,head=int8"},
    "int4 everywhere": {"dtype": "float32", "quantize": "vision=int4,lm=int4,head=int4"},
}
COLUMNS = ["weights", "score", "same answers", "nats of truth", "divergence", "golden logits", "same token", "worst"]


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    reference: Seen | None = None
    for name, how in WAYS.items():
        model = load(options.model, **how)
        kinds = options.kinds.split(",") if options.kinds else None
        size_px = model.processor.image_size_px
        questions = list(scene_questions(options.seed, options.scenes, size_px=size_px, kinds=kinds))
        seen = asked(model, questions)
        reference = reference or seen
        worst = model.packed.worst_first[0] if model.packed else None
        exact = [
            golden(path, how.get("quantize"), getattr(torch, how["dtype"])) for path in sorted(GOLDEN.glob("hf-*-tiny"))
        ]
        rows.append({
            "weights": name, "questions": len(questions), "score": seen.score, **seen.figures,
            "same_answers": same_answers(seen, reference), "nats": seen.nats,
            "divergence": divergence(seen, reference), "golden_error": max(one.error for one in exact),
            "golden_same": min(one.same for one in exact), "worst_error": worst and worst.error,
            "worst": worst and worst.name,
        })  # fmt: skip
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    worst = "-" if row["worst_error"] is None else f"{row['worst_error']:.1%}"
    return (
        f"| {row['weights']} | {row['score']:.3f} | {row['same_answers']:.1%} | {row['nats']:.4f} | "
        f"{row['divergence']:.5f} | {row['golden_error']:.2%} | {row['golden_same']:.1%} | {worst} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="of questions, such as caption,count; default all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = measured(options)
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "rows": rows}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
