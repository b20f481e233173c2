"""All stages after the tower's in the time there is, such as a borrowed accelerator's.

    minutes -> a share for each stage -> its pace, by a trial of 60 steps -> steps -> the stage -> the next

The steps that were chosen are written to `runs/nano1/schedule.json`, so that a run that was stopped goes on as planned.
"""

import json
import tempfile
import time
from pathlib import Path

from tools.nano.recipe import STAGES, run

SHARES = {"pt-112": 0.25, "pt-224": 0.47, "mix-224": 0.28}
TRIAL, WARM = 60, 30  # steps, of which the first do not count
START_S = 12.0  # until a stage's first step, and from its last one to its files


def run_all(folder: Path, minutes: float, **machine: int | str) -> None:
    """Goes through the stages; `machine` as `recipe.run` takes it."""
    began, left = time.monotonic(), 1.0
    for name, share in SHARES.items():
        seconds = (60 * minutes - (time.monotonic() - began)) * share / left
        left -= share
        steps = planned(folder, name, seconds, machine)
        print(f"{name}: {steps} steps in {seconds:.0f} s", flush=True)
        run(name, folder, steps=steps, **machine)  # type: ignore[arg-type]


def planned(folder: Path, name: str, seconds: float, machine: dict[str, int | str]) -> int:
    """How many steps fit into the time; what was written down once stays."""
    file = folder / "schedule.json"
    chosen = json.loads(file.read_text()) if file.exists() else {}
    if name not in chosen:
        began = time.monotonic()
        pace = seconds_per_step(folder, name, machine)
        fits = (seconds - (time.monotonic() - began) - START_S) / pace
        chosen[name] = max(TRIAL, int(fits))
        file.write_text(json.dumps(chosen))
    steps: int = chosen[name]
    return steps


def seconds_per_step(folder: Path, name: str, machine: dict[str, int | str]) -> float:
    """Of a trial in a folder of its own, which begins where the stage will."""
    with tempfile.TemporaryDirectory() as there:
        trial = Path(there)
        for each in folder.iterdir():
            if each.name != name:
                (trial / each.name).symlink_to(each.resolve())
        run(name, trial, steps=TRIAL, **machine)  # type: ignore[arg-type]
        lines = (trial / name / "timings.jsonl").read_text().splitlines()[WARM:]
    return sum(json.loads(line)["seconds"] for line in lines) / len(lines)


assert set(SHARES) == set(STAGES) - {"see"}
