"""The project beside its peers, alternately, on the same true-size random PaliGemma 2 3B: `python benchmarks/bench.py`.

    python benchmarks/bench.py --list
    python benchmarks/bench.py --case bf16-decode [--json]           under ten minutes each
    python benchmarks/bench.py [--out results.json]                  everything; an hour

Every side is a process of its own. A round measures the machine (bytes read, matrix products) and one repetition of
each side; figures are medians over rounds, memory is the peak of the resident set (VmHWM). `of_limit` is the share of
what the machine could do in the same run. Time to first token runs from ready pixels and ids to the first new token.
Files are made once, 6 GB for each size of pictures. With --json, one object a line for each case on stdout.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from harness.alone import machine
from harness.cases import CASES, Case
from harness.measure import Bench, Found, How
from harness.report import row, table

FILES = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "paligemma-bench"


def main() -> None:
    arguments = read_arguments()
    if arguments.list:
        print("\n".join(f"{case.name:16} {described(case)}" for case in CASES.values()))
        return
    chosen = [CASES[name] for name in arguments.case or CASES]
    how = How(
        directory=arguments.directory, rounds=arguments.rounds, seconds=arguments.seconds, threads=arguments.threads,
        priority=arguments.priority, peer_python=arguments.peer_python,
    )  # fmt: skip
    found: dict[object, Found] = {}
    rows = []
    for case in chosen:
        if case.setup not in found:
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            found[case.setup] = Bench(case.setup, how).run()
        rows.append(row(case, found[case.setup]))
        if arguments.json:
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({**machine(), "command": sys.argv[1:], "rows": rows}, indent=1) + "\n")
    if not arguments.json:
        print(table(rows))
        for note in dict.fromkeys(f"{one['case']}: {note}" for one in rows for note in one["notes"]):
            print(f"- {note}")


def described(case: Case) -> str:
    goals = [f"ratio at least {case.ratio:.3g}"] if case.ratio else []
    goals += [f"at least {case.of_limit} of the limit"] if case.of_limit else []
    goals += [f"at most {case.at_most}"] if case.at_most else []
    setup = case.setup
    if setup is None:
        what = "the bundled model, whole process"
    else:
        rows = f"{setup.rows} rows" if setup.rows > 1 else "1 row"
        what = f"{setup.precision}, {setup.image_size_px} px, {rows}, beside {', '.join(setup.peers)}"
    return f"{case.figure:22} {what}" + (f"; goal: {', '.join(goals)}" if goals else "")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), metavar="NAME", help="only this; repeatable")
    parser.add_argument("--list", action="store_true", help="the cases and their goals")
    parser.add_argument("--json", action="store_true", help="one object a line for each case on stdout")
    parser.add_argument("--out", type=Path, help="file for all rows, with the machine they were measured on")
    parser.add_argument("--directory", type=Path, default=FILES, help=f"of the random weights, default {FILES}")
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--seconds", type=float, default=400, help="of a setup, after which no round begins")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--priority", type=int, default=-10, help="over other programs, as nice counts it")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
