"""The golden fixture itself: a check that cannot fail would hide every regression."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_path_follows_from_the_test(golden):
    assert golden.path(".ir") == Path(__file__).parent / "golden" / "repo_golden" / "path_follows_from_the_test.ir"


@pytest.mark.parametrize("shape", ["1x2 x/3"])
def test_parameters_are_part_of_the_path(golden, shape):
    assert golden.path().name == "parameters_are_part_of_the_path_1x2_x_3.txt"


def test_missing_file_fails(golden, tmp_path):
    with pytest.raises(pytest.fail.Exception, match="no golden file"):
        type(golden)(tmp_path / "absent", update=False)("text")


def test_difference_fails_and_is_shown(golden, tmp_path):
    (tmp_path / "kernel.txt").write_text("same\nold\n")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)-old\n\+new\n.*--update-golden"):
        type(golden)(tmp_path / "kernel", update=False)("same\nnew")


def test_update_writes_what_then_passes(golden, tmp_path):
    type(golden)(tmp_path / "deep" / "kernel", update=True)("text", ".ir")
    type(golden)(tmp_path / "deep" / "kernel", update=False)("text\n", ".ir")
    assert (tmp_path / "deep" / "kernel.ir").read_text() == "text\n"
