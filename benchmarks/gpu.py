"""On a GPU, beside transformers: time to first token, tokens/s and prefill rate, as shares of the card's own limits.

    python benchmarks/gpu.py --list
    python benchmarks/gpu.py [--case 3b-224-b1 ...] [--sides graphs int4 hf-eager ...] [--minutes 9] [--json F]

A case is a size (3b, 10b, 28b), a resolution and a batch; `on_gpu/sides.py` tells the sides. Every side runs on random
weights made on the device; prompts are one picture and 14 tokens, answers 64 greedy tokens without an end. The copy
bandwidth and the matrix rate are measured first. `of_limit` is, for decoding, weights and cache read for each token
over the bandwidth; for the prefill, multiplications over the matrix rate of bfloat16. The cases that say most come
first, then the kernels one by one beside PyTorch's, then everything else.

All is measured in a process of its own, which is started anew where it dies or takes too long: what does not fit the
time or the memory, or fails, is reported as skipped, with its reason, and the rest goes on.
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from on_gpu import kernels
from on_gpu.sides import SIDES, SIZES

CASES = [f"{size}-{px}-b{batch}" for size in SIZES for px in (224, 448, 896) for batch in (1, 8, 64)]
FIRST = [  # what says most: the marks, each way of keeping weights, each size
    ("3b-224-b1", "graphs"), ("3b-224-b1", "hf-eager"), ("3b-448-b64", "graphs"), ("3b-224-b1", "int4"),
    ("3b-224-b1", "fp8"), ("3b-224-b1", "int8"), ("3b-448-b64", "fp8"), ("3b-224-b64", "graphs"),
    ("28b-224-b1", "graphs"), ("28b-224-b1", "int4"), ("10b-224-b1", "graphs"), ("3b-224-b1", "nf4"),
    ("3b-224-b1", "offload"), ("3b-224-b8", "graphs"), ("kernels", "int4"), ("kernels", "fp8"), ("kernels", "int8"),
    ("kernels", "nf4"), ("kernels", "attention"), ("kernels", "products"), ("kernels", "steps"),
    ("3b-448-b64", "hf-eager"), ("3b-224-b1", "hf-static"), ("3b-224-b1", "plain"),
]  # fmt: skip
THEN = ("graphs", "int4", "fp8", "hf-eager")  # of every other case
OURS = ("graphs", "plain", "compiled")  # whose numbers are the peers'
MOST_S = 150.0  # for one side of one case
WORKER = [sys.executable, "-m", "on_gpu.worker"]
Item = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=[*CASES, "kernels"], help="these alone")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(THEN), help="of the cases named")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after so long")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        return print("\n".join(CASES))
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found; benchmarks/bench.py measures processors")
    items = everything() if arguments.case is None else chosen(arguments.case, arguments.sides)
    report = Report(arguments.json)
    measure(items, 60 * arguments.minutes, report, WORKER)


def everything() -> list[Item]:
    rest = [(case, side) for case in CASES for side in THEN]
    return [*FIRST, *(item for item in rest if item not in FIRST)]


def chosen(cases: Sequence[str], sides: Sequence[str]) -> list[Item]:
    return [
        (case, name) for case in cases for name in (kernels.GROUPS if case == "kernels" else sides)
    ]  # fmt: skip


class Report:
    """What was measured, printed as it comes and kept in a file."""

    def __init__(self, path: Path | None = None):
        self.path = path
        self.found: dict[str, Any] = {"cases": [], "kernels": []}

    def add(self, item: Item, answer: dict[str, Any]) -> None:
        if item[0] == "limits":
            self.found.update(answer)
            print(json.dumps(answer), flush=True)
        elif "rows" in answer:
            self.found["kernels"] += answer["rows"]
            print("\n".join(map(kernels.line, answer["rows"])), flush=True)
        else:
            row = {"case": item[0], "side": item[1], **answer}
            self.found["cases"].append(row)
            print(line(row), flush=True)
        if self.path:
            self.path.write_text(json.dumps(with_ratios(self.found), indent=1) + "\n")


def measure(items: Sequence[Item], seconds: float, report: Report, command: Sequence[str]) -> None:
    """Has a worker measure one item after the other, and starts another where it dies or is too slow."""
    deadline, worker, limits = time.monotonic() + seconds, None, None
    for item in [("limits", ""), *items]:
        left = deadline - time.monotonic()
        if left <= 0:
            report.add(item, {"skipped": "the time is up"})
            continue
        worker = worker or Worker(command)
        answer = worker.ask({"part": item[0], "name": item[1], "limits": limits}, min(left, MOST_S))
        report.add(item, answer)
        if item[0] == "limits" and (limits := answer.get("limits")) is None:
            raise SystemExit(f"the card could not be measured: {answer.get('skipped')}")
        if worker.is_gone:
            worker = None
    if worker is not None:
        worker.end()


class Worker:
    """The process that measures."""

    def __init__(self, command: Sequence[str]):
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self.is_gone = False

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Its answer; or why there is none, and then it is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(seconds):
                self.end()
                return {"skipped": f"no answer in {seconds:.0f} s"}
        answer = self.process.stdout.readline()
        if not answer:
            self.end()
            return {"skipped": f"the process ended with status {self.process.returncode}"}
        found: dict[str, Any] = json.loads(answer)
        if found.pop("last"):
            self.end()
        return found

    def end(self) -> None:
        self.is_gone = True
        self.process.kill()
        self.process.communicate()


def line(row: dict[str, Any]) -> str:
    name = f"{row['case']:12} {row['side']:10}"
    if "skipped" in row:
        return f"{name} skipped: {row['skipped']}"
    return (
        f"{name} first token {row['ttft_s'] * 1e3:8.1f} ms ({row['prefill_of_limit']:.2f} of the matrix rate)   decode "
        f"{row['ms_per_token']:7.3f} ms/pass {row['tokens_per_s']:8.0f} tok/s ({row['decode_of_limit']:.2f} of the "
        f"bandwidth)   {row['gib']:.1f} GiB   warm-up {row['warm_up_s']:.1f} s"
    )


def with_ratios(report: dict[str, Any]) -> dict[str, Any]:
    """The report with one row for each case beside the fastest peer there is: above 1 we are faster."""
    ratios = []
    for case in dict.fromkeys(row["case"] for row in report["cases"]):
        rows = {row["side"]: row for row in report["cases"] if row["case"] == case and "skipped" not in row}
        mine = [rows[side] for side in OURS if side in rows]
        for peer in ("hf-eager", "hf-static"):
            if mine and peer in rows:
                for what, of_limit in (("ms_per_token", "decode_of_limit"), ("ttft_s", "prefill_of_limit")):
                    best = min(mine, key=lambda row: row[what])
                    ratios.append({
                        "case": f"{case}-{'decode' if what == 'ms_per_token' else 'ttft'}", "ours": best[what],
                        "peer": rows[peer][what], "peer_name": peer, "ratio": rows[peer][what] / best[what],
                        "of_limit": best[of_limit],
                    })  # fmt: skip
    return {**report, "rows": ratios}


if __name__ == "__main__":
    main()
