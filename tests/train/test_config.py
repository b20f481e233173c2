import pytest

from paligemma.errors import UsageError
from paligemma.train.config import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "values", "told"),
    [
        (SourceConfig, {"path": "a", "weight": 0.0}, "weight is 0.0, expected a number above 0"),
        (AugmentConfig, {"flip": 1.5}, "flip is 1.5, expected at least 0 and at most 1"),
        (DataConfig, {"max_tokens": 2}, "max_tokens is 2, expected at least 4"),
        (LoraConfig, {"rank": 0}, "rank is 0, expected at least 1"),
        (LossConfig, {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        (LossConfig, {"per": "exmple"}, "per is 'exmple', which is none of its words; did you mean 'example'"),
        (OptimConfig, {"lr": 0.0}, "lr is 0.0, expected a number above 0"),
        (OptimConfig, {"lr": NAN}, "lr is nan"),
        (OptimConfig, {"lr": "1e-5"}, "lr is '1e-5'"),
        (OptimConfig, {"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        (OptimConfig, {"name": "adam"}, "did you mean 'adamw'"),
        (OptimConfig, {"momentum": 0.9}, "momentum is 0.9, but adamw does not use it"),
        (OptimConfig, {"weight_decay": 0.1}, "in each step, expected at most 0.001; .* set decay_rule to matrices"),
        (EvalConfig, {"limit": 0}, "limit is 0, expected at least 1"),
        (TrainConfig, {"steps": 0}, "steps is 0, expected at least 1"),
        (TrainConfig, {"steps": 1, "epochs": 1.0}, "found steps 1 and epochs 1, expected one"),
        (TrainConfig, {"train": ("vison",)}, "train names 'vison', which is no part; did you mean 'vision'"),
        (TrainConfig, {"batch_size": True}, "batch_size is True"),
        (TrainConfig, {"keep": 1}, "keep is 1, expected at least 2"),
        (TrainConfig, {"parallel": "fsdp2", "optim": OptimConfig(name="adamw8bit")}, "split weights of parallel fsdp2"),
        (TrainConfig, {"parallel": "fsdp2", "optim": OptimConfig(name="muon")}, "muon cannot read the split weights"),
        (TrainConfig, {"precision": "fp16"}, "precision is 'fp16'"),
        (TrainConfig, {"quantize": "int4"}, "quantize is 'int4'"),
        (TrainConfig, {"evaluate": EvalConfig(patience=2)}, "no data to evaluate on; give data.validation"),
        (TrainConfig, {"evaluate": EvalConfig(metric="ap50")}, "metric 'ap50' .* give data.validation"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_made(make, values, told):
    with pytest.raises(UsageError, match=told):
        make(**values)


def test_the_defaults_are_a_configuration():
    assert TrainConfig().optim.lr == 1e-5
    OptimConfig(name="sgd", momentum=0.9)
    OptimConfig(weight_decay=0.1, decay_rule="matrices")
    TrainConfig(data=DataConfig(validation=(SourceConfig(path="a"),)), evaluate=EvalConfig(metric="ap50", patience=2))
