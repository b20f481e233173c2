"""Two processes (gloo) learn what one process learns, and go on from its sets; forked here, under torchrun if slow."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.train.tiny import save_tiny_model, write_rows
from tests.train.tiny_run import losses, run
from torch import nn

from paligemma.errors import CheckpointError, ResourceError, UsageError
from paligemma.train import distributed, examples
from paligemma.train.config import DataConfig, SourceConfig, TrainConfig
from paligemma.train.distributed import Parallel, part
from paligemma.train.start import begin

ROOT = Path(__file__).parents[2]
QLORA = {
    "steps": 2,
    "micro_batch": 4,
    "train": ["projector"],
    "lora": {"rank": 4, "where": ["lm", "vision"]},
    "quantize": "nf4",
}


def together(call, folder, world=2):
    """Does `call(rank)` in forked processes that have the environment torchrun gives; what they printed."""
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401  # once, before there are two

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {}
    for rank in range(world):
        if child := os.fork():
            children[child] = rank
            continue
        try:
            told = os.open(folder / f"told-{rank}", os.O_CREAT | os.O_WRONLY)
            os.dup2(told, 1)
            os.dup2(told, 2)
            sys.stdout = sys.stderr = os.fdopen(told, "w")
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )  # fmt: skip
            call(rank)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    ended = [os.waitpid(child, 0)[1] for child in children]
    words = "".join((folder / f"told-{rank}").read_text() for rank in range(world))
    assert not any(ended), words
    return words


def without_last_set(out, target):
    """A copy of a run as it was at its last set but one."""
    shutil.copytree(out, target)
    shutil.rmtree(target / "sets/step-00000005")
    return target


def same(a, b, within):
    weights = [load_file(Path(out) / "last/weights.safetensors") for out in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    farthest = max(float((weights[0][name].float() - weights[1][name].float()).abs().max()) for name in weights[0])
    assert farthest <= within
    assert losses(a) == pytest.approx(losses(b), abs=within)
    assert len(losses(a)) == len(losses(b))
    return True


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Whole runs in one process and in two, of both kinds; and one that began in one process and ended in two."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "one")
    run(folder / "one-qlora", **QLORA)
    without_last_set(folder / "one", folder / "one-then-fsdp2")

    def both(rank):
        with Parallel.start(timeout_s=120):
            run(folder / "ddp", parallel="ddp")
            run(folder / "fsdp2", parallel="fsdp2", checkpointing=True)
            run(folder / "fsdp2-qlora", parallel="fsdp2", **QLORA)
            run(folder / "one-then-fsdp2", parallel="fsdp2", micro_batch=4)

    together(both, folder)
    return folder


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_losses_and_weights_are_those_of_one_process(runs, kind):
    assert same(runs / "one", runs / kind, 1e-5)


def test_a_frozen_base_in_four_bits_is_split_too(runs):
    assert same(runs / "one-qlora", runs / "fsdp2-qlora", 1e-5)


def test_two_processes_go_on_from_the_set_of_one(runs):
    assert same(runs / "one", runs / "one-then-fsdp2", 1e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_process_goes_on_from_the_set_of_two(runs, tmp_path, kind):
    out = without_last_set(runs / kind, tmp_path / "run")
    before = load_file(out / "last/weights.safetensors")
    summary = run(out)
    assert summary.resumed == 4
    assert same(runs / "one", out, 1e-5)
    assert before.keys() == load_file(out / "last/weights.safetensors").keys()


def test_sets_of_two_processes_have_the_tensors_of_one(runs):
    for name in ("weights", "optimizer", "ema"):
        one, two = (load_file(runs / kind / f"sets/step-00000005/{name}.safetensors") for kind in ("one", "fsdp2"))
        assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in two.items()}
        assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


@pytest.mark.slow
def test_half_precision(tmp_path):
    run(tmp_path / "one", precision="bf16")
    together(lambda rank: run(tmp_path / "two", precision="bf16", parallel="fsdp2", micro_batch=4), tmp_path)
    assert same(tmp_path / "one", tmp_path / "two", 0.02)


def test_a_process_that_is_left_alone_says_so(tmp_path):
    def one_dies(rank):
        parallel = Parallel.start(timeout_s=60)
        parallel.barrier()
        if rank == 0:
            with pytest.raises(ResourceError) as caught:
                parallel.barrier()
            print(caught.value)

    told = together(one_dies, tmp_path)
    assert "process 0 of 2 no longer reaches the others (" in told
    assert "start all of them again with --resume" in told


def test_an_error_of_the_main_process_ends_all_and_its_words_reach_all(tmp_path):
    def fail():
        raise CheckpointError("the words")

    def all_hear(rank):
        with Parallel.start(timeout_s=60) as parallel:
            assert parallel.on_main(lambda: {"a": [rank]}) == {"a": [0]}
            assert parallel.any(rank == 1) is True
            assert parallel.all_reduce_sum({"rank": rank + 0.1}) == {"rank": 1.2000000000000002}
            with pytest.raises(CheckpointError, match="the words"):
                parallel.on_main(fail)

    together(all_hear, tmp_path)


def test_the_others_wait_for_a_look_at_the_data_as_long_as_it_takes(tmp_path, monkeypatch):
    """Longer than any exchange may take: rows of large sets are looked at for hours."""
    folder = save_tiny_model(tmp_path / "model")
    config = TrainConfig(model=str(folder), data=DataConfig(train=(SourceConfig(path=str(write_rows(tmp_path, 3))),)))
    look = examples.check
    monkeypatch.setattr(distributed, "BEAT_S", 0.2)
    monkeypatch.setattr(examples, "check", lambda *given, **more: (time.sleep(5), look(*given, **more))[1])

    def open_them(rank):
        with Parallel.start(timeout_s=2) as parallel:
            parallel.barrier()
            found = examples.open_examples(config, begin(config), parallel)
            print(f"{rank}: {found.mixture.epoch_length} rows, {len(found.findings)} findings")

    told = together(open_them, tmp_path)
    assert "0: 3 rows, 1 findings" in told
    assert "1: 3 rows, 0 findings" in told


def test_nobody_waits_for_a_main_process_that_is_dead_or_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "BEAT_S", 0.2)

    def hang(rank):
        monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # no signs of life
        monkeypatch.setattr(threading.Thread, "join", lambda thread: None)
        parallel = Parallel.start(timeout_s=2)
        parallel.barrier()
        began = time.monotonic()
        with contextlib.suppress(ResourceError) if rank == 0 else pytest.raises(ResourceError, match="no sign of life"):
            parallel.on_main(lambda: time.sleep(6))
        print(rank, time.monotonic() - began < 5)

    assert "1 True" in together(hang, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_under_torchrun(tmp_path, kind):
    run(tmp_path / "one")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    told = json.dumps({"out": f"{tmp_path}/two", "parallel": kind})
    subprocess.run([*torchrun, "-m", "tests.train.tiny_run", told], cwd=ROOT, timeout=250, check=True)
    assert same(tmp_path / "one", tmp_path / "two", 1e-5)


# --- one process ---


def test_alone_everything_is_itself():
    parallel = Parallel()
    module = nn.Linear(2, 2)
    assert parallel.wrap(module) is module
    assert (parallel.main, parallel.gradient_scale, parallel.any(False), parallel.any(True)) == (True, 1.0, False, True)
    assert parallel.all_reduce_sum({"a": 2.0}) == {"a": 2.0}
    assert parallel.broadcast({"a": [1]}) == {"a": [1]}
    assert dict(parallel.spread({"a": torch.ones(2)}))["a"].tolist() == [1, 1]
    assert parallel.gather({"w": module.weight})["w"].requires_grad is False
    assert part(torch.ones(2), torch.zeros(2)).tolist() == [1, 1]
    parallel.barrier()
    with parallel, parallel.accumulating(module, last=False):
        pass


def test_errors_pass_through_where_nobody_waits():
    def fail():
        raise UsageError("no")

    with pytest.raises(UsageError):
        Parallel().on_main(fail)
    with pytest.raises(RuntimeError, match="timed out"), Parallel().peers():
        raise RuntimeError("timed out")


def test_only_errors_about_others_are_told_as_such():
    several = Parallel("ddp", world=2)
    with pytest.raises(ResourceError, match=r"process 0 of 2 no longer .* \(Connection closed by"), several.peers():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(RuntimeError, match="shapes"), several.peers():
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize("most", [0.0, 0.5, 1e6])
def test_the_norm_of_all_gradients(most):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    model(torch.randn(7, 5)).square().sum().backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    norm = Parallel().clip_grad_norm(model.parameters(), most)
    torch.testing.assert_close(norm, whole.norm())
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(clipped, whole * (min(1, most / float(norm)) if most else 1))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_many_processes_need_torchrun(monkeypatch, kind):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match=rf"parallel={kind} was asked for, but this process is alone; start"):
        Parallel.start(kind)


def test_more_processes_than_devices(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"process 1 of this machine has no CUDA device, there are 1; give torchrun"):
        Parallel.start("ddp", "cuda")


def test_a_replica_lets_go_of_the_group_before_it_is_left():
    """The last hold on the group must not be DDP's: it ends the group's thread under Python's lock."""
    parallel, replica = Parallel("ddp"), SimpleNamespace(reducer=object(), logger=object())
    parallel._replicas.append(replica)
    parallel.close()
    assert (replica.reducer, replica.logger) == (None, None)
