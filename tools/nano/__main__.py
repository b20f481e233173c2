"""Command line: `python -m tools.nano masks`, then `train --see 12 --speak 70`, then `bundle`."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tools.nano import tokenizer

from paligemma.config import NANO


def train(arguments: argparse.Namespace) -> None:
    from tools.nano.train import Run, Stage

    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "tokenizer.json"
    if not file.exists():
        tokenizer.write(file)
    run = Run(arguments.folder, NANO, file, threads=arguments.threads)
    see = Stage(
        minutes=arguments.see, lr=1.5e-3, tower_lr_scale=1.0, images=64, prompts=1, dense_weight=1.0, speak=False
    )
    speak = Stage(
        minutes=arguments.speak, lr=1.2e-3, tower_lr_scale=0.5, images=24, prompts=3, dense_weight=0.5, speak=True
    )
    run.go("see", see)
    run.go("speak", speak)
    run.go("polish", replace(speak, minutes=arguments.polish, lr=5e-4))
    run.go("again", replace(speak, minutes=arguments.again, lr=9e-4))


def masks(arguments: argparse.Namespace) -> None:
    from tools.nano.masks import train

    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(train(arguments.folder, arguments.steps)))


def bundle(arguments: argparse.Namespace) -> None:
    from tools.nano.bundle import TARGET
    from tools.nano.bundle import bundle as write

    print(json.dumps(write(arguments.folder, arguments.target or TARGET, arguments.scenes), indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.nano", description=__doc__)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="train, or go on with, the model in a folder")
    training.add_argument("--see", type=float, default=12, help="minutes of dense supervision of the vision tower")
    training.add_argument("--speak", type=float, default=70, help="minutes of language-model training")
    training.add_argument("--polish", type=float, default=11, help="minutes of the same at a lower rate")
    training.add_argument("--again", type=float, default=0, help="minutes of a second round of speaking")
    training.add_argument("--threads", type=int, default=2)
    training.set_defaults(run=train)
    coding = commands.add_parser("masks", help="train the mask codec, which speaking needs")
    coding.add_argument("--steps", type=int, default=2600)
    coding.set_defaults(run=masks)
    bundling = commands.add_parser("bundle", help="score the model on held-out scenes and put it into the package")
    bundling.add_argument("--target", type=Path, help="another folder than the package's")
    bundling.add_argument("--scenes", type=int, default=500)
    bundling.set_defaults(run=bundle)
    for command in (training, coding, bundling):
        command.add_argument("--folder", type=Path, default=Path("runs/nano"))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
