"""A notice is a sentence for people and plain data for programs."""

from paligemma.results import Notice


def test_a_notice_reads_as_its_message_and_tells_only_what_it_knows():
    assert str(Notice("cut", "cut off")) == "cut off"
    assert Notice("cut", "cut off").to_dict() == {"code": "cut", "message": "cut off"}
    whole = Notice("rejected", "odd text", "abc", 0)
    assert whole.to_dict() == {"code": "rejected", "message": "odd text", "fragment": "abc", "at": 0}
