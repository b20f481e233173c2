"""Chunks made elsewhere are the chunks made here; faults come back as values. With Ray itself: `pytest -m slow`."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from tests.jobs.helpers import INPUTS, Fake, count_calls, folder_of_pictures, run, sums

from paligemma.errors import InputError, UnavailableError, UsageError
from paligemma.jobs.cluster import ChunkActor, Cluster, _packed, _unpacked, chunk_places
from paligemma.jobs.run import Here, Plan, read_items


@pytest.fixture
def plan(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    run(photos, tmp_path / "run")
    return Plan(
        inputs=tmp_path / "run/job.inputs", first=4, total=INPUTS, chunk_size=4, batch_size=1, options={"seed": 7}
    )


def test_places_are_where_the_lines_begin(plan):
    places = list(chunk_places(plan))
    assert [place["first"] for place in places] == [4, 8, 12]
    for place in places:
        assert next(read_items(plan.inputs, 0, place["offset"])).index == place["first"]


def test_an_actor_makes_the_same_lines_as_this_process(plan, monkeypatch):
    actor = ChunkActor(lambda model: Fake(), {}, os.getcwd(), {}, {**asdict(plan), "inputs": str(plan.inputs)})
    made = []
    for place in chunk_places(plan):
        columns = actor({key: np.array([value]) for key, value in place.items()})
        made.append(_unpacked({key: column[0] for key, column in columns.items()}))
    assert made == [asdict(lines) for lines in Here(Fake()).chunks(plan)]


def test_an_actor_that_cannot_load_says_why(plan):
    def missing(model):
        raise UnavailableError("there is no model x")

    actor = ChunkActor(missing, {}, os.getcwd(), {}, {**asdict(plan), "inputs": str(plan.inputs)})
    columns = actor({"first": np.array([4]), "offset": np.array([0])})
    with pytest.raises(UnavailableError, match=r"there is no model x \(told by a process of the cluster\)"):
        _unpacked({key: column[0] for key, column in columns.items()})


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], {"results": b"\xff", "errors": b"", "inputs": 1}])
def test_values_travel_unchanged(value):
    copy = dict(value) if isinstance(value, dict) else list(value)
    assert _unpacked(dict(_packed(lambda: value))) == copy


def test_errors_keep_their_kind():
    def wrong():
        raise InputError("why: because")

    with pytest.raises(InputError, match="why: because"):
        _unpacked(dict(_packed(wrong)))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"pip install 'paligemma\[cluster\]'"):
        Cluster({})


def test_workers_are_counted_from_one():
    with pytest.raises(UsageError, match="0 workers"):
        Cluster({}, workers=0)


ON_RAY = """
import json, sys
from pathlib import Path
from paligemma.jobs import run_job
from paligemma.jobs.cluster import Cluster
from tests.failing_disk import Failing, Killed
from tests.jobs.helpers import Fake, settings
photos, out, at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
cluster = Cluster({}, workers=2, loader=lambda model: Fake())
try:
    run_job(settings(photos), out, lambda: cluster, files=Failing(at))
except Killed:
    print("killed")
summary = run_job(settings(photos), out, lambda: cluster, resume=True)
print(summary.resumed_at)
"""


@pytest.mark.slow
def test_a_job_on_ray_killed_and_gone_on_with_gives_the_same_bytes(tmp_path):
    pytest.importorskip("ray")
    photos = folder_of_pictures(tmp_path / "photos")
    calls = count_calls(photos, tmp_path / "here")
    command = [sys.executable, "-c", ON_RAY, str(photos), str(tmp_path / "there"), str(calls * 3 // 4)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split()[0] == "killed"
    assert 0 < int(told.stdout.split()[1]) < INPUTS
    assert sums(tmp_path / "there") == sums(tmp_path / "here")
    assert json.loads((tmp_path / "there/job.json").read_text())["environment"] == {"threads": 1}
