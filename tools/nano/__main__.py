"""Command line: `python -m tools.nano begin`, `stage see` and the other stages of `recipe`, then `bundle`."""

import argparse
import json
from pathlib import Path


def begin(arguments: argparse.Namespace) -> None:
    from tools.nano import tokenizer
    from tools.nano.masks import train

    arguments.folder.mkdir(parents=True, exist_ok=True)
    tokenizer.write(arguments.folder / "tokenizer.json")
    print(json.dumps(train(arguments.folder, arguments.steps)))


def stage(arguments: argparse.Namespace) -> None:
    from tools.nano.recipe import run

    run(
        arguments.name, arguments.folder,
        threads=arguments.threads, workers=arguments.workers, device=arguments.device,
        steps=arguments.steps, pictures=arguments.pictures,
    )  # fmt: skip


def everything(arguments: argparse.Namespace) -> None:
    from tools.nano.schedule import run_all

    run_all(
        arguments.folder, arguments.minutes,
        threads=arguments.threads, workers=arguments.workers, device=arguments.device, pictures=arguments.pictures,
    )  # fmt: skip


def bundle(arguments: argparse.Namespace) -> None:
    from tools.nano.bundle import bundle as write
    from tools.nano.page import section

    from paligemma.checkpoints.hub import BUNDLE

    record = write(
        arguments.folder, arguments.target or BUNDLE,
        scenes=arguments.scenes, compared=arguments.compared, only=arguments.only,
    )  # fmt: skip
    print(section(record))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.nano", description=__doc__)
    commands = parser.add_subparsers(required=True)
    beginning = commands.add_parser("begin", help="make the tokenizer and train the mask codec")
    beginning.add_argument("--steps", type=int, default=4000)
    beginning.set_defaults(run=begin)
    training = commands.add_parser("stage", help="go through one stage, or on with it")
    training.add_argument("name")
    training.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    training.set_defaults(run=stage)
    timed = commands.add_parser("all", help="the stages after the tower's, in the time there is")
    timed.add_argument("--minutes", type=float, required=True)
    timed.set_defaults(run=everything)
    for command in (training, timed):
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--workers", type=int, default=1, help="processes that draw")
        command.add_argument("--device", default="cpu")
        command.add_argument("--pictures", type=int, default=0, help="of a step, instead of the recipe's")
    bundling = commands.add_parser("bundle", help="put the stages into the package in int8 and tell how good they are")
    bundling.add_argument("--target", type=Path, help="another folder than the package's")
    bundling.add_argument("--scenes", type=int, default=2000, help="held-out ones that each model is asked about")
    bundling.add_argument("--compared", type=int, default=500, help="how many of them before int8 too")
    bundling.add_argument("--only", help="one model, such as nano-mix-224")
    bundling.set_defaults(run=bundle)
    for command in (beginning, training, timed, bundling):
        command.add_argument("--folder", type=Path, default=Path("runs/nano1"))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
