"""The lint knows what each published checkpoint was trained for, and what a mistyped prompt was meant to be."""

import pytest

from paligemma.config import VARIANTS, variant
from paligemma.tasks.lint import known_prompts, lint, task_of
from paligemma.tasks.segment import REFCOCO
from paligemma.tasks.text import BARE_QUESTIONS


def codes(notices):
    return [notice.code for notice in notices]


@pytest.mark.parametrize(
    ("prompt", "task"),
    [("detect cat", "detect"), ("segment a", "segment"), ("caption en", "caption"), ("cap en", "caption"),
     ("describe en", "caption"), ("ocr", "ocr"), ("answer en x", "ask"), ("What is it?", "generate"), ("", "generate")],
)  # fmt: skip
def test_the_first_word_tells_the_task(prompt, task):
    assert task_of(prompt) == task


def test_every_variant_can_be_asked_everything():
    for v in VARIANTS.values():
        bare = v.task in (*BARE_QUESTIONS, REFCOCO)
        for task in ("caption", "ask", "ocr", "detect", "segment", "generate"):
            notices = lint(f"{task} cat" if task in ("detect", "segment") else "x", task, v)
            assert all(v.name in notice.message for notice in notices)
            assert (notices == []) == (v.kind != "pt" and (task in v.tasks or (bare and task == "generate")))
        assert all(form for form in known_prompts(v))


def test_a_base_checkpoint_points_to_its_mix():
    (notice,) = lint("caption en", "caption", variant("paligemma2-10b-pt-896"))
    assert notice.code == "base_checkpoint"
    assert "paligemma2-10b-mix-448" in notice.message
    (notice,) = lint("caption en", "caption", variant("paligemma-3b-pt-224"))
    assert "paligemma-3b-mix-224" in notice.message


def test_a_single_task_checkpoint_says_what_it_knows():
    (notice,) = lint("detect cat", "detect", variant("paligemma-3b-ft-vqav2-448"))
    assert notice.code == "unknown_task"
    assert "not trained to detect, it knows ask" in notice.message
    (notice,) = lint("hello", "generate", variant("paligemma-3b-ft-cococap-448"))
    assert "did you mean a prompt such as 'caption en'" in notice.message


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("detct cat", "detect cat"), ("Caption en", "caption en"), ("caption", "caption en"),
        ("answer what is it?", "answer en what is it?"), ("segment cat; dog", "segment cat ; dog"),
        ("detect", "detect cat"),
    ],
)  # fmt: skip
def test_did_you_mean(prompt, meant):
    (notice,) = lint(prompt, task_of(prompt), None, free=True)
    assert notice.code == "did_you_mean"
    assert f"did you mean {meant!r}?" in notice.message


@pytest.mark.parametrize("prompt", ["caption de", "detect cat ; dog", "What is it?", "ocr", "caption <loc0001>"])
def test_good_prompts_pass_in_silence(prompt):
    assert lint(prompt, task_of(prompt), variant("paligemma2-3b-mix-448"), free=True) == []


@pytest.mark.parametrize("prompt", ["<image>caption en", "caption en<bos>", "caption en\\n"])
def test_typed_control_tokens_are_pointed_out(prompt):
    assert "typed_control" in codes(lint(prompt, "generate", None, free=True))
    assert lint(prompt, "generate", None) == []


@pytest.mark.parametrize(
    ("name", "prompt", "meant"),
    [
        ("paligemma-3b-ft-docvqa-448", "answer en what is the date?", "what is the date?"),
        ("paligemma-3b-ft-refcoco-seg-448", "segment left cat", "left cat"),
        ("paligemma-3b-ft-cococap-448", "describe en", "caption en"),
        ("paligemma-3b-ft-cococap-448", "caption de", "caption en"),
        ("paligemma-3b-ft-coco35l-224", "cap de", "caption de"),
        ("paligemma-3b-ft-vqav2-448", "answer fr où?", "answer en où?"),
        ("nano", "caption it", "caption en"),
        ("nano", "cap zh", "caption zh"),
    ],
)
def test_a_prompt_is_put_into_the_checkpoints_own_dialect(name, prompt, meant):
    (notice,) = lint(prompt, task_of(prompt), variant(name), free=True)
    assert f"did you mean {meant!r}?" in notice.message
    assert lint(meant, task_of(meant), variant(name), free=True) == []


def test_nano_says_which_things_it_has_seen():
    assert lint("detect cat ; Haus ; 猫", "detect", variant("nano")) == []
    (notice,) = lint("detect cat ; zebra", "detect", variant("nano"))
    assert (notice.code, "'zebra'; it knows" in notice.message) == ("unknown_object", True)
    assert lint("detect zebra", "detect", variant("paligemma2-3b-mix-448")) == []


def test_which_prompts_a_checkpoint_knows():
    assert known_prompts(variant("paligemma-3b-ft-docvqa-224")) == ("<question>",)
    assert known_prompts(variant("paligemma-3b-ft-coco35l-224")) == ("caption <language>",)
    assert known_prompts(variant("paligemma-3b-ft-vqav2-224")) == ("answer en <question>",)
    assert "detect <thing> ; <thing>" in known_prompts(variant("paligemma-3b-pt-224"))
    assert "<any question>" in known_prompts(variant("paligemma2-3b-mix-448"))
