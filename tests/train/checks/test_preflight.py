import io
import json
from dataclasses import replace

import pytest
import torch
from tests.train.first_rows import (
    BOX,
    Spoilt,
    labels_one_early,
    labels_one_late,
    nano,
    nothing_learnt,
    padding_learnt,
    stream,
    whole_row_learnt,
    without_eos,
)
from tests.train.judging.test_evaluate import TEXTS
from tests.train.tiny import tiny_config, tiny_trainer

from paligemma.errors import CheckFailed, InputError, UsageError
from paligemma.model import AttentionMask
from paligemma.processor import Processor
from paligemma.train.checks.preflight import Preflight, first_batches, of_few, once
from paligemma.train.checks.rows import rows_of
from paligemma.train.config import DataConfig, SourceConfig, TrainConfig
from paligemma.train.config_file import from_dict
from paligemma.train.distributed import Parallel
from paligemma.train.judging.evaluate import Evaluation
from paligemma.train.objective import SuffixObjective
from paligemma.train.run import train


@pytest.fixture
def checks(tmp_path):
    """Makes the checks of a run on given rows; what they say is in `said`."""
    said = []

    def make(rows, **more):
        config = tiny_config(out=tmp_path)
        return Preflight(
            objective=SuffixObjective(nano().model, config.loss), stream=rows, processor=nano().processor,
            config=config, parallel=Parallel(), say=said.append, **more,
        )  # fmt: skip

    make.said = said
    return make


def test_healthy_rows_pass_and_are_shown(checks, tmp_path):
    shown = io.StringIO()
    checks(stream(), show=shown).inspect()
    assert checks.said == []
    assert shown.getvalue().count(" tokens, ") == 16
    assert (tmp_path / "examples.html").read_text().count("<h2>") == 16


REFUSED = {
    "nothing trained": (Spoilt(nothing_learnt), "no token of it is trained"),
    "prompt trained": (Spoilt(whole_row_learnt), "expected the suffix alone"),
    "padding trained": (Spoilt(padding_learnt), "tokens of its pad are trained"),
    "labels early": (Spoilt(labels_one_early), "tokens of its prefix are trained"),
    "labels late": (Spoilt(labels_one_late), "of its suffix are not trained"),
    "eos missing": (Spoilt(without_eos), "expected <eos>"),
    "location split": (stream(("find the cat", BOX)), "was split into pieces of text"),
    "location outside": (stream(("detect cat", "<loc0000><loc0000><loc1024><loc1024> cat")), "end at <loc1023>"),
    "box upside down": (stream(("detect cat", "<loc0900><loc0200><loc0100><loc0800> cat")), "has no area"),
    "too long": (stream(("caption en", "cat " * 200), max_tokens=64), r"at most \d+ fit; shorten"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_teach_something_wrong_is_refused(name, checks):
    rows, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as refused:
        checks(rows).inspect()
    assert str(refused.value).startswith("rows:")
    assert refused.value.exit_status == 4


def test_refused_rows_are_counted_and_come_first_on_the_page(checks, tmp_path):
    rows = stream(*[("caption en", "a cat")] * 30, ("find it", BOX), batch_size=31)
    with pytest.raises(InputError, match=r"^rows:30: ") as refused:
        checks(rows).inspect()
    assert "are refused" not in str(refused.value)
    page = (tmp_path / "examples.html").read_text()
    assert page.index("rows:30</h2>") < page.index("rows:0</h2>")
    with pytest.raises(InputError, match=r"\(8 of the first 16 examples are refused\)"):
        checks(stream(("caption en", "a cat"), ("find it", BOX))).inspect()


def test_a_leak_is_refused(checks, monkeypatch):
    seeing = AttentionMask.prefix_lm
    monkeypatch.setattr(AttentionMask, "prefix_lm", lambda mask_ar, valid: seeing(torch.zeros_like(mask_ar), valid))
    with pytest.raises(CheckFailed, match="leaks the answer") as refused:
        checks(stream()).inspect()
    assert refused.value.exit_status == 7


def test_warnings_are_said_once_for_each_kind(checks):
    checks(stream(("answer en is it a small red cat?", "a small red cat"))).inspect()
    (warning,) = checks.said
    assert warning.startswith("warning: rows:")
    assert warning.endswith("(and 15 more)")


def test_as_many_steps_as_needed_are_looked_at():
    assert len(first_batches(stream(batch_size=3))) == 4  # at most four steps
    assert sum(len(batch.tokens) for batch in first_batches(stream(batch_size=8))) == 16
    assert len(first_batches(stream(batch_size=40))) == 1


def test_an_example_is_shown_once_in_the_order_it_came():
    rows = rows_of(stream(batch_size=5).micro_batches(0, 0, 1), nano().processor)
    assert [row.id for row in once([*rows, *rows[::-1]])] == [row.id for row in rows]


def test_a_rehearsal_tells_what_it_cost(checks):
    trainer = tiny_trainer()
    cost, learnt = checks(stream()).rehearse(trainer, lambda step: {"loss": 1.0}, 12)
    assert cost.figures == {"loss": 1.0}
    assert "s a step" in checks.said[0]
    assert "learnt by heart" in checks.said[-1]
    assert learnt.last < 0.1 * learnt.first


def test_an_evaluation_is_shortened(tmp_path):
    config = TrainConfig(out=tmp_path, precision="fp32")
    whole = Evaluation(SuffixObjective(nano().model, config.loss), nano().processor, [TEXTS], config)
    few = of_few(whole)
    assert (few.config.evaluate.limit, few.config.evaluate.pictures) == (2, 0)
    assert whole.config is config


# --- through `train`, as people meet it ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Trains the bundled model on rows that are written first."""
    from PIL import Image

    def begin(*texts, **more):
        for i in range(4):
            Image.new("RGB", (24, 24), (60 * i, 90, 200)).save(tmp_path / f"{i}.png")
        lines = [
            json.dumps({"image": f"{i % 4}.png", "prefix": prefix, "suffix": suffix})
            for i, (prefix, suffix) in enumerate(texts)
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        config = TrainConfig(
            out=tmp_path / "run", precision="fp32", batch_size=2, steps=1, save_every=0,
            data=DataConfig(train=(SourceConfig(path=str(tmp_path / "rows.jsonl")),), workers=0),
        )  # fmt: skip
        return train(config, device="cpu", quiet=True, **more)

    return begin


GOOD = [("caption en", "a red cat"), ("detect cat", BOX), ("answer en how many?", "2"), ("ocr", "CAT")]


def test_a_dry_run_shows_everything_and_begins_nothing(run, tmp_path, capsys):
    summary = run(*GOOD, dry_run=True)
    said = capsys.readouterr().err
    assert (summary.steps, summary.stopped) == (0, "dry run")
    assert "<loc0100>|<loc0200>|<loc0900>|<loc0800>" in said
    assert "s a step" in said
    assert (tmp_path / "run" / "examples.html").is_file()
    assert run(*GOOD).steps == 1  # the folder holds no run


def test_a_spoilt_processor_stops_a_run(run, tmp_path, monkeypatch):
    encode = Processor.encode

    def prompt_learnt(self, *arguments, **more):
        row = encode(self, *arguments, **more)
        return replace(row, mask_loss=torch.ones_like(row.mask_loss))

    monkeypatch.setattr(Processor, "encode", prompt_learnt)
    with pytest.raises(InputError, match="expected the suffix alone"):
        run(*GOOD)
    assert 'class="t wrong"' in (tmp_path / "run" / "examples.html").read_text()


def test_an_unknown_key_stops_before_anything():
    with pytest.raises(UsageError, match="did you mean 'batch_size'"):
        from_dict({"batchsize": 8})
