"""Ways to fine-tune, on the same real data for the same number of steps: what each reaches and what it costs.

    python benchmarks/methods.py --out runs/methods [--model nano-pt-112] [--steps 100] [--seeds 0 1] [--methods ...]
    python benchmarks/methods.py --out runs/methods --table        # of what is there

The data are scikit-learn's handwritten digits: 1,000 to train on, 297 to choose by, 500 to be judged by, asked in
words. Every method has three learning rates, each tried with the first seed; the one with the best validation accuracy
is run with the other seeds too. So all have the same search, among them `scratch`, which starts from random weights of
the same architecture: whether pre-training pays is read from its line. Each run is `train.run.train` as users have it,
in a process of its own; results are added to OUT/results.json one by one, and what is there is not run again.

Memory is the peak during the steps above what the process held before there was a model. `state` is what of it is
certain: weights, gradients and optimizer memory, counted. Steps a second suffer from a busy machine, the processor's
time of a step hardly.
"""

import argparse
import json
import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.alone import MIB, alone, forget_peak, give, machine, most, resident

ADAPTER: dict[str, Any] = {"rank": 8, "alpha": 16.0, "where": ["all-linear"]}
WHOLE, SMALL = (1e-4, 3e-4, 1e-3), (1e-3, 3e-3, 1e-2)  # learning rates of weights themselves, and of adapters
METHODS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # settings of a run, rates to try
    "full": ({}, WHOLE),
    "frozen vision": ({"train": ["lm", "projector"]}, WHOLE),
    "attention": ({"train": ["attention"]}, WHOLE),
    "lora": ({"lora": ADAPTER}, SMALL),
    "lora, lm only": ({"lora": {**ADAPTER, "where": ["lm"]}}, SMALL),
    "dora": ({"lora": {**ADAPTER, "dora": True}}, SMALL),
    "qlora nf4": ({"lora": ADAPTER, "quantize": "nf4"}, SMALL),
    "qlora int8": ({"lora": ADAPTER, "quantize": "int8"}, SMALL),
    "scratch": ({}, (3e-4, 1e-3, 3e-3)),
}
ACCURACY, LOSS = "question_accuracy", "loss"


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One run, and what there is to say about it."""
    from paligemma.train.config_file import from_dict
    from paligemma.train.records import Observer, StepRecord
    from paligemma.train.run import prepare_run, train

    changes, _ = METHODS[case["method"]]
    start = f"scratch:{case['model']}" if case["method"] == "scratch" else case["model"]
    splits = [{"path": "digits", "split": split, "name": split} for split in ("validation", "test")]
    config = from_dict({
        **changes, "model": start, "out": case["folder"], "seed": case["seed"], "steps": case["steps"],
        "batch_size": case["batch_size"], "precision": case["precision"], "threads": case["threads"],
        "optim": {"lr": case["rate"]}, "save_every": 0, "save_minutes": 0.0,
        "data": {"train": [{"path": "digits"}], "validation": splits, "workers": 0},
        "evaluate": {"every": case["steps"], "pictures": 0, "limit": case["limit"]},
    })  # fmt: skip
    prepared = prepare_run(config)
    state, trained = state_bytes(prepared.objective), prepared.parts.trainable
    del prepared
    before = resident()

    class Watch(Observer):
        seconds: list[float] = []  # noqa: RUF012  # there is one of it
        ends: list[float] = []  # noqa: RUF012
        peak = 0

        def on_step(self, record: StepRecord) -> None:
            if record.step == 1:
                forget_peak()
            self.seconds.append(record.seconds)
            self.ends.append(time.process_time())
            self.peak = most()

    watch = Watch()
    summary = train(config, quiet=True, observers=[watch], preflight=False)
    saved = sum(file.stat().st_size for file in (config.out / "last").glob("*.safetensors"))
    figures = summary.last
    shutil.rmtree(config.out)
    return {
        "validation": figures[f"validation/{ACCURACY}"], "test": figures[f"test/{ACCURACY}"],
        "validation_loss": figures[f"validation/{LOSS}"], "test_loss": figures[f"test/{LOSS}"],
        "trained": trained, "state_bytes": state, "saved_bytes": saved, "memory_bytes": watch.peak - before,
        "steps_per_s": 1 / statistics.median(watch.seconds[1:]),
        "step_processor_s": statistics.median(after - before for before, after in pairwise(watch.ends)),
        "seconds": summary.seconds,
    }  # fmt: skip


def state_bytes(objective: Any) -> int:
    """Bytes of weights, of gradients and of the two float32 averages AdamW keeps."""
    weights = sum(one.numel() * one.itemsize for one in objective.parameters())
    return weights + sum(one.numel() * (one.itemsize + 8) for one in objective.parameters() if one.requires_grad)


class Results:
    """Cases and what was found about each, in a file that grows."""

    def __init__(self, folder: Path):
        self.file = folder / "results.json"
        self.rows: list[dict[str, Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text())["results"]

    def of(self, case: dict[str, Any]) -> dict[str, Any]:
        """From the file, or measured now."""
        for row in self.rows:
            if all(row[key] == value for key, value in case.items() if key != "folder"):
                return row
        shutil.rmtree(case["folder"], ignore_errors=True)
        began = time.monotonic()
        row = {**case, **alone(__file__, case, threads=case["threads"])}
        del row["folder"]
        print(f"{case['method']}, rate {case['rate']:g}, seed {case['seed']}: validation {row['validation']:.3f}, "
              f"test {row['test']:.3f}, {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        self.rows.append(row)
        fresh = self.file.with_suffix(".tmp")
        fresh.write_text(json.dumps({**machine(), "results": self.rows}, indent=1) + "\n")
        fresh.replace(self.file)
        return row


def run_all(results: Results, methods: list[str], seeds: list[int], common: dict[str, Any], quick: bool) -> None:
    """Every rate of every method with the first seed, and the best of them with the others."""
    for method in methods:
        _, rates = METHODS[method]
        rates = rates[1:2] if quick else rates
        case = {**common, "method": method}
        tried = [results.of({**case, "rate": rate, "seed": seeds[0]}) for rate in rates]
        for seed in seeds[1:]:
            results.of({**case, "rate": best(tried)["rate"], "seed": seed})


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (row["validation"], -row["validation_loss"]))


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each method, of the seeds of its best rate."""
    lines = [
        "| method | rate | test accuracy | of each seed | validation | trained | saved, MiB | state, MiB | peak, MiB | "
        "steps/s | processor, s a step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        first = [row for row in own if row["seed"] == own[0]["seed"]]
        same = [row for row in own if row["rate"] == best(first)["rate"]]
        tests = [row["test"] for row in same]
        lines.append(
            f"| {method} | {same[0]['rate']:g} | {statistics.mean(tests):.3f} | "
            f"{' '.join(f'{one:.3f}' for one in tests)} | {statistics.mean(row['validation'] for row in same):.3f} | "
            f"{same[0]['trained']:,} | {same[0]['saved_bytes'] / MIB:.1f} | {same[0]['state_bytes'] / MIB:.0f} | "
            f"{statistics.median(row['memory_bytes'] for row in same) / MIB:.0f} | "
            f"{statistics.median(row['steps_per_s'] for row in same):.2f} | "
            f"{statistics.median(row['step_processor_s'] for row in same):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--model", default="nano-pt-112", help="what to start from: a name or a folder")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="digits to judge by, of each split half; default all")
    parser.add_argument("--quick", action="store_true", help="the middle rate of each method alone")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        return give(measure(arguments.case))
    if arguments.out is None:
        parser.error("give --out, the folder of the results")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out)
    common = {
        "model": arguments.model, "steps": arguments.steps, "batch_size": arguments.batch_size,
        "precision": arguments.precision, "threads": arguments.threads, "limit": arguments.limit,
        "folder": str(arguments.out / "run"),
    }  # fmt: skip
    if not arguments.table:
        run_all(results, arguments.methods, arguments.seeds, common, arguments.quick)
    wanted = {key: value for key, value in common.items() if key != "folder"}
    print(table([row for row in results.rows if all(row[key] == value for key, value in wanted.items())]))


if __name__ == "__main__":
    main()
