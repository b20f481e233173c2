import json
from dataclasses import replace

import pytest
from tests.train.tiny import save_tiny_model, write_rows

from paligemma.errors import InputError, UsageError
from paligemma.train.config import AugmentConfig, DataConfig, SourceConfig, TrainConfig
from paligemma.train.examples import open_examples, remarks, write_data_report
from paligemma.train.start import begin


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return begin(TrainConfig(model=str(save_tiny_model(tmp_path_factory.mktemp("examples") / "model"))))


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


def test_pictures_change_only_where_asked(start, tmp_path):
    rows = write_rows(tmp_path, 4)
    plain, changed = (open_examples(config_of(rows, augment=AugmentConfig(color=c)), start) for c in (0.0, 0.5))
    assert plain.mixture[0].suffix == changed.mixture[0].suffix
    assert type(plain.mixture[0].images[0]) is not type(changed.mixture[0].images[0])


def test_nothing_to_train_on_is_refused(start):
    with pytest.raises(UsageError, match=r"nothing to train on; give data\.train"):
        open_examples(TrainConfig(), start)
