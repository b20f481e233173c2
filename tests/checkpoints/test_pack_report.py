"""The report of packed matrices: worst first, by matrix and by kind."""

from paligemma.checkpoints.pack_report import Packed, PackReport

LM, VISION, HEAD = "language_model.layers", "vision_tower.layers", "language_model.embed_tokens"
REPORT = PackReport(
    (
        Packed(f"{VISION}.0.mlp.fc2", "int8", (1152, 4304), 1152 * 4304, 0.008),
        Packed(f"{LM}.0.mlp.up_proj", "int4", (64, 128), 64 * 68, 0.1),
        Packed(f"{LM}.11.mlp.up_proj", "int4", (64, 128), 64 * 68, 0.3),
        Packed(HEAD, "int8", (100, 64), 6400, None),
    )
)


def test_a_line_for_each_matrix_worst_first():
    lines = REPORT.to_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"{LM}.11.mlp.up_proj", f"{LM}.0.mlp.up_proj",
                                                   f"{VISION}.0.mlp.fc2", HEAD]  # fmt: skip
    assert lines[0].split()[1:] == ["64", "x", "128", "int4", "0.3000"]
    assert lines[-1].endswith("-")


def test_a_line_for_each_kind_of_matrix():
    assert REPORT.to_kinds() == [
        [f"{LM}.*.mlp.up_proj", "64 x 128", "int4", "2", "4.25", "0.2000", "0.3000", f"{LM}.11.mlp.up_proj"],
        [f"{VISION}.*.mlp.fc2", "1152 x 4304", "int8", "1", "8", "0.0080", "0.0080", ""],
        [HEAD, "100 x 64", "int8", "1", "8", "-", "-", ""],
    ]


def test_numbers_for_programs():
    told = REPORT.to_dict()
    assert told["bytes"] == REPORT.bytes == 1152 * 4304 + 2 * 64 * 68 + 6400
    assert told["matrices"][0] == {
        "name": f"{LM}.11.mlp.up_proj", "part": "lm", "shape": [64, 128], "method": "int4", "bytes": 4352, "error": 0.3,
    }  # fmt: skip
    assert [row["part"] for row in told["matrices"]] == ["lm", "lm", "vision", "head"]


def test_in_one_line():
    assert str(REPORT) == "4 matrices take 0.00497 GB in fewer bits; the least exact is 30.0% off"
    assert str(PackReport(REPORT.rows[3:])) == "1 matrices take 6.4e-06 GB in fewer bits"
