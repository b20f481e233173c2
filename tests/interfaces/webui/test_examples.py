from paligemma.interfaces.webui.examples import SEEDS, draw_examples
from paligemma.scenes.first import LABELS, draw_scene


def test_examples_ask_for_what_is_there():
    examples = draw_examples(SEEDS[:2])
    for seed, example in zip(SEEDS, examples, strict=False):
        labels = {thing.label for thing in draw_scene(seed, example.picture.width).things}
        assert set(example.objects.split("; ")) == labels <= set(LABELS)
        assert example.question.startswith("how many ")
        assert example.prompt.removeprefix("answer en what color is the ").removesuffix("?") in labels


def test_there_is_a_row_of_them():
    assert len(set(SEEDS)) == 6
