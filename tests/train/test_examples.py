import json
from dataclasses import replace

import pytest
from tests.train.tiny import save_tiny_model, write_rows

from paligemma.data.scenes import STARTS
from paligemma.errors import InputError, UsageError
from paligemma.train.config import AugmentConfig, DataConfig, SourceConfig, TrainConfig
from paligemma.train.examples import open_examples, remarks, write_data_report
from paligemma.train.start import begin


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return begin(TrainConfig(model=str(save_tiny_model(tmp_path_factory.mktemp("examples") / "model"))))


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """The same at the smallest side that scenes have."""
    model = save_tiny_model(tmp_path_factory.mktemp("drawing") / "model")
    return begin(TrainConfig(model=str(model), image_size_px=32))


def config_of(path, **data):
    return TrainConfig(data=DataConfig(train=(SourceConfig(path=str(path), name="colors"),), **data))


def test_sources_become_a_mixture(start, tmp_path):
    rows = write_rows(tmp_path, 5)
    other = write_rows(tmp_path / "b", 3, shade=200)
    config = config_of(rows, validation=(SourceConfig(path=str(other), name="held out"),))
    found = open_examples(config, start)
    assert found.mixture.epoch_length == 5
    assert {found.mixture[i].suffix for i in range(5)} == {"red", "green", "blue"}
    assert [source.name for source in found.validation] == ["held out"]
    assert [one.source for one in found.findings] == ["colors", "held out"]


def test_a_bad_row_stops_or_is_left_out_and_listed(start, tmp_path):
    rows = write_rows(tmp_path, 4)
    rows.write_text(rows.read_text() + '{"image": "missing.png", "prefix": "caption en", "suffix": "a"}\n')
    with pytest.raises(InputError, match=r"1 rows must not be trained on, the first: .*missing.png"):
        open_examples(config_of(rows), start)
    found = open_examples(config_of(rows, skip_bad=True), start)
    assert found.mixture.epoch_length == 4
    write_data_report(tmp_path, found.findings)
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == 1
    assert "missing.png" in rejects[0]["why"]
    assert "1 errors in 1 rows" in (tmp_path / "data_report.txt").read_text()
    assert "colors: " in remarks(found.findings)[0]
    with_other_rows = open_examples(replace(config_of(rows, skip_bad=True), seed=1), start)
    assert with_other_rows.mixture.fingerprint == found.mixture.fingerprint


def test_a_row_that_would_be_cut_is_an_error(start, tmp_path):
    with pytest.raises(InputError, match=r"4 rows must not be trained on, the first: .* text tokens"):
        open_examples(config_of(write_rows(tmp_path, 4), max_tokens=6), start)


def test_scenes_may_be_longer_than_other_rows_unless_told(drawing, tmp_path):
    """The longest row of thousands of scenes is still taken; every length in between is a matter of luck."""
    rows = write_rows(tmp_path, 4)
    drawn = DataConfig(train=(SourceConfig(path="scenes:text"),), check=1)
    assert open_examples(TrainConfig(data=drawn), drawing).max_tokens == 256
    assert open_examples(TrainConfig(data=replace(drawn, max_tokens=90)), drawing).max_tokens == 90
    assert open_examples(config_of(rows), drawing).max_tokens == 128
    assert open_examples(config_of(rows, validation=drawn.train, check=1), drawing).max_tokens == 256


def test_scenes_to_be_judged_on_are_held_out(drawing):
    drawn = SourceConfig(path="scenes:text")
    found = open_examples(TrainConfig(data=DataConfig(train=(drawn,), validation=(drawn,), check=1)), drawing)
    learnt, judged = (int(example.id.split(":")[1]) for example in (found.mixture[0], found.validation[0][0]))
    assert learnt < STARTS["validation"] <= judged < STARTS["test"]


@pytest.mark.parametrize(
    ("learnt", "judged"),
    [
        ({"split": "train"}, {"split": "train"}),
        ({"split": "validation"}, {}),
        ({}, {"path": "scenes?start=4000", "split": "train"}),
        ({"path": "scenes?start=999999999999"}, {"path": "scenes:chart", "split": "train"}),
    ],
)
def test_scenes_are_not_judged_on_what_is_learnt(start, learnt, judged):
    sources = [SourceConfig(**({"path": "scenes"} | given)) for given in (learnt, judged)]
    data = DataConfig(train=(sources[0],), validation=(sources[1],), check=1)
    with pytest.raises(UsageError, match=r"draws the scenes that .* learns"):
        open_examples(TrainConfig(data=data), start)


def test_pictures_change_only_where_asked(start, tmp_path):
    rows = write_rows(tmp_path, 4)
    plain, changed = (open_examples(config_of(rows, augment=AugmentConfig(color=c)), start) for c in (0.0, 0.5))
    assert plain.mixture[0].suffix == changed.mixture[0].suffix
    assert type(plain.mixture[0].images[0]) is not type(changed.mixture[0].images[0])


def test_nothing_to_train_on_is_refused(start):
    with pytest.raises(UsageError, match=r"nothing to train on; give data\.train"):
        open_examples(TrainConfig(), start)
