"""Names that look alike are one class, in a data set and on a command line."""

from __future__ import annotations

import unicodedata

import pytest

from util.classes import find_class, match_classes

NFC, NFD = (unicodedata.normalize(form, "Caf\u00e9 \u1ed9") for form in ("NFC", "NFD"))


def test_the_very_name_goes_before_one_that_looks_alike() -> None:
    assert match_classes([NFC, NFD, f" {NFD}\u200b", "cafe", "0"], [NFC, "1"]) == [0, 0, 0, None, None]
    assert match_classes([NFC, NFD], [NFD, NFC]) == [1, 0]  # of a checkpoint that has both


def test_a_class_is_found_by_its_name_in_any_form() -> None:
    assert find_class(NFD, ["x", NFC]) == find_class(NFC, ["x", NFD]) == find_class("1", ["x", NFC]) == 1
    with pytest.raises(ValueError, match="class 'y' does not exist"):
        find_class("y", ["x", NFC])
