"""Command line: `python -m tools.nano train --folder runs/nano --see 12 --speak 70`."""

import argparse
from pathlib import Path

from tools.nano import tokenizer
from tools.nano.train import Run, Stage

from paligemma.config import NANO


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.nano", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/nano"))
    parser.add_argument("--see", type=float, default=12, help="minutes of dense supervision of the vision tower")
    parser.add_argument("--speak", type=float, default=70, help="minutes of language-model training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="torch.compile both towers")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "tokenizer.json"
    if not file.exists():
        tokenizer.write(file)
    run = Run(
        arguments.folder, NANO, file.read_text(encoding="utf-8"), threads=arguments.threads, compiled=arguments.compiled
    )
    see = Stage(
        minutes=arguments.see, lr=1.5e-3, tower_lr_scale=1.0, images=64, prompts=1, dense_weight=1.0, speak=False
    )
    speak = Stage(
        minutes=arguments.speak, lr=1.2e-3, tower_lr_scale=0.3, images=24, prompts=3, dense_weight=0.3, speak=True
    )
    run.go("see", see)
    run.go("speak", speak)


if __name__ == "__main__":
    main()
