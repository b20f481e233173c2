import json

from paligemma.train.records import Best, Progress


def test_progress_survives_json_to_the_last_bit():
    best = Best(step=3, figures={"loss": 0.1 + 0.2})
    progress = Progress(step=5, skipped=1, bad_in_a_row=1, examples=40, tokens=900, best=best, last={"loss": 1 / 3})
    assert Progress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress
    assert Progress.from_dict(json.loads(json.dumps(Progress().to_dict()))) == Progress()
