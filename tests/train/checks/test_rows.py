import torch
from tests.train.first_rows import BOX, example, nano, stream

from paligemma.train.checks.rows import picture, rows_of
from paligemma.train.streams import encode


def collated(*examples):
    processor = nano().processor
    return processor.collate([encode(one, processor) for one in examples], side="right")


def test_every_token_has_its_part():
    slots = nano().processor.num_image_tokens
    row, _ = rows_of([collated(example("detect cat", BOX), example("detect cat", BOX + " ; " + BOX))], nano().processor)
    assert [token.part for token in row.tokens[:slots]] == ["image"] * slots
    assert [part for part, _, _ in row.runs()] == ["image", "prefix", "suffix", "pad"]
    assert [trained for _, trained, _ in row.runs()] == [False, False, True, False]
    assert row.text("prefix") == "detect cat"
    assert row.text("suffix") == BOX
    assert [token.piece for token in row.of("suffix")[:4]] == ["<loc0100>", "<loc0200>", "<loc0900>", "<loc0800>"]
    assert row.of("suffix")[-1].piece == "<eos>"


def test_a_prompt_that_ends_in_a_newline_keeps_it():
    row = rows_of([collated(example("caption en\n"))], nano().processor)[0]
    assert row.text("prefix") == "caption en\n"


def test_each_row_has_its_own_pictures():
    one, none, two = example(name="rows:1"), example(images=0), example(name="rows:2", images=2)
    batch = collated(one, none, two)
    rows = rows_of([batch], nano().processor)
    assert [len(row.pictures) for row in rows] == [1, 0, 2]
    assert torch.equal(rows[2].pictures[1], batch.pixels[2])


def test_rows_come_in_the_loaders_order_with_their_names():
    batches = stream(batch_size=6, micro_batch=2).micro_batches(0, 0, 1)
    rows = rows_of(batches, nano().processor)
    assert [row.id for row in rows] == [name for batch in batches for name in batch.ids]
    assert {row.source for row in rows} == {"rows"}
    assert rows_of(batches, nano().processor, limit=3) == rows[:3]


def test_ids_outside_the_vocabulary_are_shown():
    batch = collated(example())
    batch.tokens[0, -1] = 10**6
    assert rows_of([batch], nano().processor)[0].tokens[-1].piece == "<id 1000000>"


def test_pixels_become_the_picture_they_were():
    pixels = torch.tensor([-1.0, 0.0, 1.0])[:, None, None].expand(3, 2, 2)
    assert picture(pixels).getpixel((1, 1)) == (0, 128, 255)
