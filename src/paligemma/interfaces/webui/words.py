"""Every text of the page, in English and Chinese, and which of them a browser wants.

What the model writes and the sentences of errors stay as they are; the commonest notices have a translation by their
code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

VERBS = ("caption", "ask", "ocr", "detect", "segment", "generate")


@dataclass(frozen=True, kw_only=True)
class Words:
    """The page in one language; `{}` stands for what is filled in."""

    code: str  # of the language, and the page's address: /en/
    locale: str  # what the browser is told, so that the parts that are not ours speak it too
    name: str
    intro: str
    model: str
    picture: str
    drop: str
    drawing: str
    examples: str
    verbs: Mapping[str, str]
    question: str
    question_hint: str
    objects: str
    objects_hint: str
    prompt: str
    prompt_hint: str
    answer_language: str
    style: str
    styles: Mapping[str, str]
    more: str
    max_tokens: str
    max_tokens_hint: str
    run: str
    answer: str
    drawn: str
    waiting: str
    threshold: str
    threshold_hint: str
    columns: tuple[str, ...]
    raw: str
    download_picture: str
    download_json: str
    found: str
    found_one: str
    found_none: str
    hidden: str
    seconds: str
    tokens: str
    tokens_one: str
    probability: str
    no_picture: str
    no_words: Mapping[str, str]
    error: str
    bug: str
    notices: Mapping[str, str] = field(default_factory=dict)


ENGLISH = Words(
    code="en",
    locale="en",
    name="English",
    intro="Ask a picture. Nothing you put in leaves this computer.",
    model="Model",
    picture="Picture",
    drop="Drop a picture here, paste one, or click",
    drawing="Draw",
    examples="Examples",
    verbs={
        "caption": "Caption",
        "ask": "Ask",
        "ocr": "Read",
        "detect": "Detect",
        "segment": "Segment",
        "generate": "Prompt",
    },
    question="Question",
    question_hint="how many cats are there?",
    objects="What to find",
    objects_hint="cat; dog",
    prompt="Prompt, as the model gets it",
    prompt_hint="answer en what color is the cat?",
    answer_language="Language of the answer",
    style="Style",
    styles={"caption": "one sentence", "cap": "short", "describe": "long"},
    more="More",
    max_tokens="Longest answer, in tokens",
    max_tokens_hint="0: as the task needs",
    run="Answer",
    answer="Answer",
    drawn="Found",
    waiting="The answer will be here.",
    threshold="Minimum score",
    threshold_hint="Hides boxes the model is less sure of; it is not asked again.",
    columns=("label", "score", "left", "top", "right", "bottom"),
    raw="Raw text",
    download_picture="↓ Picture",
    download_json="↓ JSON",
    found="{} found",
    found_one="1 found",
    found_none="Nothing found",
    hidden="{} below the minimum score",
    seconds="{} s",
    tokens="{} tokens",
    tokens_one="1 token",
    probability="probability {}",
    no_picture="There is no picture yet; drop one, paste one, draw one or take an example.",
    no_words={
        "ask": "The question is empty; ask something about the picture.",
        "detect": "Nothing is named to be found; name things, such as: cat; dog",
        "segment": "Nothing is named to be found; name things, such as: cat; dog",
        "generate": "The prompt is empty; write a task, such as: caption en",
    },
    error="{}",
    bug="Unexpected {}; the terminal that runs this page says more.",
)

CHINESE = Words(
    code="zh",
    locale="zh-CN",
    name="中文",
    intro="向图片提问。您放入的内容不会离开这台电脑。",
    model="模型",
    picture="图片",
    drop="拖入、粘贴或点击选择一张图片",
    drawing="绘画",
    examples="示例",
    verbs={
        "caption": "描述",
        "ask": "提问",
        "ocr": "读字",
        "detect": "检测",
        "segment": "分割",
        "generate": "自由提示",
    },
    question="问题",
    question_hint="有几只猫？",
    objects="要找什么",
    objects_hint="cat; dog",
    prompt="提示（原样发给模型）",
    prompt_hint="answer zh 猫是什么颜色？",
    answer_language="回答的语言",
    style="风格",
    styles={"caption": "一句话", "cap": "简短", "describe": "详细"},
    more="更多",
    max_tokens="回答的最大长度（词元）",
    max_tokens_hint="0：按任务需要",
    run="回答",
    answer="回答",
    drawn="结果",
    waiting="回答将显示在这里。",
    threshold="最低分数",
    threshold_hint="隐藏模型把握较小的框，不会重新运行模型。",
    columns=("标签", "分数", "左", "上", "右", "下"),
    raw="原始文本",
    download_picture="↓ 图片",
    download_json="↓ JSON",
    found="找到 {} 个",
    found_one="找到 1 个",
    found_none="没有找到",
    hidden="{} 个低于最低分数",
    seconds="{} 秒",
    tokens="{} 个词元",
    tokens_one="1 个词元",
    probability="概率 {}",
    no_picture="还没有图片；请拖入、粘贴或绘制一张，或选择一个示例。",
    no_words={
        "ask": "问题是空的；请就图片提一个问题。",
        "detect": "没有写要找什么；请写出名称，例如：cat; dog",
        "segment": "没有写要找什么；请写出名称，例如：cat; dog",
        "generate": "提示是空的；请写一个任务，例如：caption en",
    },
    error="出错了：{}",
    bug="意外错误 {}；运行此页面的终端里有详细信息。",
    notices={
        "truncated": "回答在 {} 个词元处被截断；可在“更多”里调大最大长度。",
        "empty": "模型给出了空的回答。",
        "no_mask": "有的框没有带掩码。",
        "base_checkpoint": "这是用于微调的基础模型，回答比较粗糙。",
        "unknown_task": "这个模型没有学过这个任务，回答可能没有意义。",
        "typed_control": "提示里的控制符号被当作普通文字；请去掉它，程序会自动加上。",
    },
)

WORDS: dict[str, Words] = {words.code: words for words in (ENGLISH, CHINESE)}


def language_of(accepted: str) -> str:
    """The code of ours that a browser likes best.

    Args:
        accepted: its `Accept-Language`, such as `zh-CN,zh;q=0.9,en;q=0.8`; anything else is read as English.
    """
    best, weight = ENGLISH.code, 0.0
    for choice in accepted[:1000].split(","):
        tag, _, parameter = choice.partition(";")
        code = tag.strip().lower().partition("-")[0]
        try:
            wanted = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if code in WORDS and wanted > weight:
            best, weight = code, wanted
    return best
