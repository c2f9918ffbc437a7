"""Names that look alike are one class, in a data set and on a command line."""

from __future__ import annotations

import unicodedata

import pytest

from util.classes import find_class, find_classes, match_classes

NFC, NFD = (unicodedata.normalize(form, "Caf\u00e9 \u1ed9") for form in ("NFC", "NFD"))


def test_the_very_name_goes_before_one_that_looks_alike() -> None:
    assert match_classes([NFC, NFD, f" {NFD}\u200b", "cafe", "0"], [NFC, "1"]) == [0, 0, 0, None, None]
    assert match_classes([NFC, NFD], [NFD, NFC]) == [1, 0]  # of a checkpoint that has both


def test_a_class_is_found_by_its_name_in_any_form() -> None:
    assert find_class(NFD, ["x", NFC]) == find_class(NFC, ["x", NFD]) == find_class("1", ["x", NFC]) == 1
    with pytest.raises(ValueError, match="class 'y' does not exist"):
        find_class("y", ["x", NFC])


def test_several_classes_are_named_one_by_one_with_commas_or_all() -> None:
    classes = ["a", "b, c", "d", NFC]
    assert find_classes(["b, c", "a"], classes) == [1, 0]
    assert find_classes(["a,2", NFD], classes) == find_classes([f"a, 2 ,{NFD}"], classes) == [0, 2, 3]
    assert (
        find_classes(["all"], classes) == [0, 1, 2, 3]
        and find_classes(["all"], ["b", "all"]) == [1]
        and find_classes([], classes) == []
    )
    with pytest.raises(ValueError, match="0 is given twice"):
        find_classes(["a", "0"], classes)
    with pytest.raises(ValueError, match="class 'x' does not exist"):
        find_classes(["a,x"], classes)
    with pytest.raises(ValueError) as error:
        find_classes(["y" * 5000], ["x" * 5000])
    assert len(str(error.value)) < 300
