from paligemma.interfaces.webui.examples import SEEDS, draw_examples
from paligemma.scenes import draw_scene
from paligemma.scenes.vocabulary import forms


def test_examples_ask_for_what_is_there():
    for language in ("en", "zh"):
        for seed, example in zip(SEEDS, draw_examples(language), strict=True):
            labels = [thing.label for thing in draw_scene(seed, example.picture.width, "objects").things]
            assert set(example.objects.split("; ")) == set(labels)
            often = max(labels, key=labels.count)
            assert forms(often, language).how_many in example.question
            alone = [label for label in labels if labels.count(label) == 1]
            assert any(forms(label, language).the in example.prompt for label in alone)
            assert example.prompt.startswith(f"answer {language} ")


def test_there_is_a_row_of_them():
    assert len(set(SEEDS)) == 6
