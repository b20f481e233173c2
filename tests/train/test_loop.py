import os
import signal
from dataclasses import replace

import pytest
import torch
from tests.oracle import TINY, draw_model
from tests.train.tiny import ROWS, Seen, Sets, Stream, equal, tiny_config, tiny_trainer, weights

from paligemma.errors import DivergedError, InputError, ResourceError, UsageError
from paligemma.train.config import DataConfig, EvalConfig, LossConfig, OptimConfig, SourceConfig
from paligemma.train.loop import Trainer, is_better, num_tokens
from paligemma.train.objective import SuffixObjective
from paligemma.train.process import Stopped
from paligemma.train.records import Best

WATCHED = DataConfig(workers=0, validation=(SourceConfig(path="scenes"),))


def first_step(micro, **loss):
    config = tiny_config(loss=LossConfig(**loss))
    trainer = tiny_trainer(config, Stream(micro))
    losses = trainer.gradient(trainer.stream.micro_batches(0))
    return losses, {name: parameter.grad for name, parameter in trainer.parameters.items()}


@pytest.mark.parametrize("per", ["example", "token"])
def test_a_step_is_the_same_however_it_is_cut(per):
    whole, gradients = first_step(ROWS, per=per)
    for micro in (4, 3, 2, 1):
        losses, cut = first_step(micro, per=per)
        assert losses == pytest.approx(whole, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_checkpointed_activations_give_the_same_gradient_and_keep_less():
    def gradient(checkpointing):
        kept = []
        trainer = tiny_trainer(tiny_config(checkpointing=checkpointing))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            losses = trainer.gradient(trainer.stream.micro_batches(0))
        return losses, {name: p.grad for name, p in trainer.parameters.items()}, sum(kept)

    plain, again = gradient(False), gradient(True)
    assert plain[0] == again[0]
    assert equal(plain[1], again[1])
    assert again[2] < 0.5 * plain[2]


def test_what_lies_between_products_is_compiled_where_it_is_asked_for(monkeypatch):
    names = []

    def compile(function, *, dynamic):
        return lambda *args: names.append(function.__name__) or function(*args)

    monkeypatch.setattr(torch, "compile", compile)
    losses = {}
    for wanted in (False, True):
        trainer = tiny_trainer(tiny_config(compile=wanted))
        losses[wanted] = trainer.gradient(trainer.stream.micro_batches(0))
        assert bool(names) == wanted
    assert losses[False] == losses[True]
    assert {"_rms_norm", "_add_and_norm", "_rotate", "geglu", "gelu", "_negative_log"} <= set(names)


def test_a_tiny_batch_is_learnt_by_heart():
    seen = Seen()
    trainer = tiny_trainer(tiny_config(steps=80), Stream(same=True), observers=[seen])
    summary = trainer.run()
    assert seen.records[0].losses["loss"] > 1
    assert seen.records[-1].losses["loss"] < 0.05
    assert [record.step for record in seen.records] == list(range(1, 81))
    assert summary.examples == 80 * ROWS
    assert summary.tokens == 80 * sum(num_tokens(batch) for batch in Stream().micro_batches(0))
    assert seen.summary == summary


def test_bfloat16_computes_but_weights_and_memory_stay_float32():
    trainer = tiny_trainer(tiny_config(precision="bf16", steps=2))
    trainer.run()
    assert {parameter.dtype for parameter in trainer.parameters.values()} == {torch.float32}
    memory = [value for state in trainer.optimizer.torch.state.values() for value in state.values()]
    assert {value.dtype for value in memory} == {torch.float32}
    exact, rounded = (
        first_step(ROWS)[0],
        tiny_trainer(tiny_config(precision="bf16")).gradient(Stream().micro_batches(0)),
    )
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=3e-2)
    assert rounded != exact


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_five_steps_and_five_more_are_ten(name, ema):
    optim = OptimConfig(name=name, lr=1e-2, momentum=0.9 if name == "sgd" else 0.0, ema=ema)
    config = tiny_config(optim=optim, save_every=5)
    straight, sets = tiny_trainer(config, state=Sets()), Sets()
    straight.run()
    full = Sets()
    tiny_trainer(config, state=full).run()
    sets.kept[5] = full.kept[5]
    seen = Seen()
    resumed = tiny_trainer(config, state=sets, observers=[seen])
    summary = resumed.run()
    assert summary.resumed == 5
    assert [record.step for record in seen.records] == [6, 7, 8, 9, 10]
    assert equal(weights(resumed), weights(straight))
    for ours, theirs in zip(sets.kept[10][0].items(), full.kept[10][0].items(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
    assert sets.kept[10][1] == full.kept[10][1]


def test_saving_often_changes_nothing():
    often, never = tiny_trainer(tiny_config(save_minutes=1e-9), state=Sets()), tiny_trainer()
    often.run()
    never.run()
    assert sorted(often.state.kept) == list(range(1, 11))
    assert equal(weights(often), weights(never))


def test_a_finished_run_is_resumed_without_a_step():
    sets = Sets()
    first = tiny_trainer(state=sets)
    first.run()
    again = tiny_trainer(state=sets)
    assert again.run().resumed == 10
    assert equal(weights(again), weights(first))


def test_a_refused_set_is_not_taken():
    sets = Sets()
    tiny_trainer(tiny_config(save_every=5), state=sets).run()

    def refuse(found):
        raise UsageError(f"not with {found.facts['data']}")

    trainer = tiny_trainer(state=sets, accept=refuse, facts={"data": "x"})
    sets.kept[10][1]["data"] = "y"
    with pytest.raises(UsageError, match="not with y"):
        trainer.run()


# --- the guard -------------------------------------------------------------------------------------------------------


def test_a_bad_step_is_kept_and_skipped(tmp_path):
    seen = Seen()
    config = tiny_config(steps=4)
    trainer = tiny_trainer(config, Stream(bad=(1,)), observers=[seen], bad_steps=tmp_path)
    summary = trainer.run()
    assert [record.skipped for record in seen.records] == [False, True, False, False]
    assert summary.skipped == 1
    assert (tmp_path / "step_2" / "0-0.safetensors").exists()
    assert "step 2 was skipped: loss nan" in seen.notes[0]
    assert all(torch.isfinite(parameter).all() for parameter in trainer.parameters.values())

    before = tiny_trainer(replace(config, steps=4), Stream(bad=(1, 2, 3)), bad_steps=tmp_path)
    only_first = tiny_trainer(config)
    only_first.step(Stream().micro_batches(0), 0.0, 0.0)
    with pytest.raises(DivergedError, match=r"3 steps in a row up to step 4 .*loss nan"):
        before.run()
    assert equal(weights(before), weights(only_first)), "bad steps change nothing"


def test_three_bad_steps_in_a_row_end_the_run_and_keep_the_last_set():
    sets = Sets()
    with pytest.raises(DivergedError) as caught:
        tiny_trainer(tiny_config(save_every=2), Stream(bad=(3, 4, 5)), state=sets).run()
    assert caught.value.exit_status == 8
    assert sets.load_last().step == 4
    assert sets.load_last().facts["progress"]["bad_in_a_row"] == 1


def test_bad_steps_apart_do_not_end_it():
    assert tiny_trainer(stream=Stream(bad=(1, 2, 4, 5, 7, 8))).run().skipped == 6


def test_an_infinite_gradient_is_a_bad_step_too():
    trainer = tiny_trainer(tiny_config(steps=1))
    parameter = trainer.parameters["model.projector.weight"]
    parameter.register_hook(lambda gradient: gradient / 0)
    seen = Seen()
    trainer.observers.append(seen)
    trainer.run()
    assert seen.records[0].skipped
    assert torch.isfinite(torch.tensor(seen.records[0].losses["loss"]))


def test_a_step_without_anything_to_learn_is_refused():
    trainer = tiny_trainer(tiny_config(loss=LossConfig(per="token")))
    batches = [replace(batch, mask_loss=torch.zeros_like(batch.mask_loss)) for batch in Stream().micro_batches(0)]
    with pytest.raises(InputError, match=r"step 1 has no token to learn \(row:0, row:1"):
        trainer.gradient(batches)


def test_too_little_memory_names_what_to_change():
    trainer = tiny_trainer(tiny_config(micro_batch=4))

    def fail(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.forward = fail
    with pytest.raises(ResourceError, match="step 1 needs more memory than cpu has, with 4 examples at a time"):
        trainer.run()


def test_gradients_are_clipped_by_their_common_norm():
    seen = Seen()
    optim = OptimConfig(name="sgd", lr=1.0, warmup=0, schedule="constant", clip_norm=0.01)
    trainer = tiny_trainer(tiny_config(steps=1, optim=optim), observers=[seen])
    before = weights(trainer)
    trainer.run()
    moved = torch.stack([(weights(trainer)[name] - before[name]).square().sum() for name in before]).sum().sqrt()
    assert seen.records[0].grad_norm > 0.01
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


# --- evaluation ------------------------------------------------------------------------------------------------------


def run_with_figures(figures, **evaluate):
    """A run of as many steps as there are figures, evaluated after each; what was exported at which step."""
    exported, seen = [], Seen()
    config = tiny_config(steps=len(figures), data=WATCHED, evaluate=EvalConfig(every=1, **evaluate))
    trainer = tiny_trainer(
        config, observers=[seen], evaluate=lambda step: {"loss": figures[step - 1], "ap50": -figures[step - 1]},
        export=lambda name: exported.append((name, trainer.progress.step)),
    )  # fmt: skip
    return trainer.run(), seen, exported


def test_the_best_is_written_when_it_comes_and_the_last_at_the_end():
    summary, seen, exported = run_with_figures([3.0, 1.0, 2.0, float("nan")])
    assert exported == [("best", 1), ("best", 2), ("last", 4)]
    assert summary.best == Best(step=2, figures={"loss": 1.0, "ap50": -1.0})
    assert [step for step, _ in seen.evaluations] == [1, 2, 3, 4]
    assert run_with_figures([3.0, 1.0, 2.0], metric="ap50")[0].best.step == 2


def test_patience_ends_a_run():
    summary, seen, exported = run_with_figures([3.0, 2.0, 2.5, 2.0, 1.0], patience=2)
    assert summary.stopped == "patience"
    assert summary.steps == 4
    assert exported[-1] == ("last", 4)
    assert "no better loss in 2 evaluations" in seen.notes[-1]


def test_a_figure_nobody_measures_is_refused():
    with pytest.raises(UsageError, match=r"no figure 'ap5' .* did you mean 'ap50'"):
        run_with_figures([1.0], metric="ap5")


def test_averaged_weights_are_judged_and_exported_but_not_trained():
    judged = []
    config = tiny_config(optim=OptimConfig(lr=1e-2, ema=0.9), data=WATCHED, evaluate=EvalConfig(every=5))

    def evaluate(step):
        assert not trainer.objective.training
        judged.append(weights(trainer))
        return {"loss": 1.0}

    trainer = tiny_trainer(config, evaluate=evaluate)
    trainer.run()
    plain = tiny_trainer(replace(config, optim=OptimConfig(lr=1e-2)))
    plain.run()
    assert equal(weights(trainer), weights(plain))
    assert equal(judged[-1], trainer.average.values)
    assert not equal(judged[-1], weights(trainer))


def test_what_is_better():
    best = Best(step=1, figures={"loss": 1.0, "ap50": 0.5})
    assert is_better("loss", {"loss": 0.9}, best)
    assert not is_better("loss", {"loss": 1.0}, best)
    assert is_better("ap50", {"ap50": 0.6}, best)
    assert not is_better("ap50", {"ap50": float("nan")}, None)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_stops(number, status):
    class Interrupting(Seen):
        def on_step(self, record):
            super().on_step(record)
            if record.step == 3:
                os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    sets, exported = Sets(), []
    with pytest.raises(Stopped, match="after step 3, which is saved") as caught:
        tiny_trainer(state=sets, observers=[Interrupting()], export=exported.append).run()
    assert caught.value.exit_status == status
    assert exported == ["last"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    resumed, straight = tiny_trainer(state=sets), tiny_trainer()
    resumed.run()
    straight.run()
    assert equal(weights(resumed), weights(straight))


def test_torchs_settings_come_back():
    torch.use_deterministic_algorithms(False)
    tiny_trainer(tiny_config(steps=1)).run()
    assert not torch.are_deterministic_algorithms_enabled()


def test_frozen_parts_are_left_alone():
    model = draw_model(TINY[2])
    model.vision_tower.requires_grad_(False)
    config = tiny_config(steps=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = Trainer(SuffixObjective(model, config.loss), Stream(), config)
    trainer.run()
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in before if name.startswith("vision_tower")} <= same
    assert "projector.weight" not in same
