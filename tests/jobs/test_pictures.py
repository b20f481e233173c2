"""Pictures come in order, opened ahead by threads, and never more than may wait."""

import threading
import time

import pytest
from tests.jobs.helpers import folder_of_pictures

from paligemma.jobs import pictures
from paligemma.jobs.pictures import Opener, open_item
from paligemma.jobs.requests import Item


def items(photos, count=14):
    return [Item(index=i, id=i, paths=(str(photos / f"{i:03}.png"),)) for i in range(count)]


@pytest.mark.parametrize("threads", [1, 4])
def test_items_keep_their_order_and_their_faults(tmp_path, threads):
    photos = folder_of_pictures(tmp_path / "photos")
    with Opener(items(photos), ahead=3, threads=threads) as opener:
        found = list(opener)
    assert [opened.item.index for opened in found] == list(range(14))
    assert [opened.item.index for opened in found if opened.error] == [3, 9]
    assert [opened.pictures[0].getpixel((0, 0))[0] for opened in found if not opened.error][:3] == [0, 1, 2]


def test_no_more_than_allowed_are_ahead(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, "open_item", lambda item: seen.append(item.index) or open_item(item))
    photos = folder_of_pictures(tmp_path / "photos")
    with Opener(items(photos), ahead=4, threads=2) as opener:
        opened = iter(opener)
        next(opened)
        time.sleep(0.2)
        assert len(seen) <= 5
        list(opened)
    assert sorted(seen) == list(range(14))


def test_large_pictures_wait_for_room(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_WAITING_PIXELS", 12)
    seen = []
    monkeypatch.setattr(pictures, "open_item", lambda item: seen.append(item.index) or open_item(item))
    photos = folder_of_pictures(tmp_path / "photos", bad=())
    with Opener(items(photos), ahead=14, threads=1) as opener:
        opened = iter(opener)
        next(opened)
        time.sleep(0.2)
        assert len(seen) <= 3
        assert len(list(opened)) == 13


def test_leaving_early_ends_the_threads(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    before = threading.active_count()
    with Opener(items(photos), ahead=2) as opener:
        next(iter(opener))
    assert threading.active_count() == before


def test_what_the_list_raises_is_raised_in_its_place(tmp_path):
    def broken():
        yield from items(folder_of_pictures(tmp_path / "photos"), 2)
        raise OSError("gone")

    seen = []
    with Opener(broken(), ahead=4) as opener, pytest.raises(OSError, match="gone"):
        seen.extend(opened.item.index for opened in opener)


def test_a_fault_of_ours_is_raised(tmp_path, monkeypatch):
    def broken(item):
        raise ZeroDivisionError

    monkeypatch.setattr(pictures, "open_item", broken)
    with Opener(items(tmp_path), ahead=4) as opener, pytest.raises(ZeroDivisionError):
        list(opener)


def test_lines_with_errors_are_handed_on():
    item = Item(index=0, id="x", error={"code": "bad_input", "message": "m"})
    opened = open_item(item)
    assert (opened.item, opened.pictures, opened.error) == (item, (), None)


def test_nothing_to_open():
    with Opener([], ahead=4) as opener:
        assert list(opener) == []
