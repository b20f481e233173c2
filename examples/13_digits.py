"""Transfer to real handwriting: an adapter learns scikit-learn's digits, which no drawn world has shown to the model.

python examples/13_digits.py                            a few steps, to see that it runs
python examples/13_digits.py --steps 100 --test 500     the whole of it; figures in docs/adapters.md
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import paligemma
from paligemma.data.sources import open_source
from paligemma.train.config import DataConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.judging.benchmark import evaluate
from paligemma.train.run import train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="nano-pt-112")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--test", type=int, default=20, help="digits to be judged by, of 500")
arguments = parser.parse_args()


def accuracy(model: paligemma.PaliGemma) -> str:
    return f"{evaluate(model, 'digits', limit=arguments.test).figures['question_accuracy'].value:.1%}"


example = open_source("digits")[0]
print(f"{example.prefix!r} -> {example.suffix!r}")

with TemporaryDirectory() as folder:
    config = TrainConfig(
        model=arguments.model, out=Path(folder) / "run", data=DataConfig(train=(SourceConfig(path="digits"),)),
        lora=LoraConfig(rank=8, where=("all-linear",)), optim=OptimConfig(lr=3e-3), batch_size=16,
        steps=arguments.steps,
    )  # fmt: skip
    summary = train(config, quiet=True)
    print(f"{summary.examples} examples in {summary.seconds:.0f} s")
    print("right before:", accuracy(paligemma.load(arguments.model)))
    print("right after: ", accuracy(paligemma.load(arguments.model, adapter=config.out / "last")))
