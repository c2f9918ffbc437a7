"""Figures need no window, whatever the environment says, and fonts that have the letters of names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from util import plotting
from util.plotting import DATA, Figure, FigureCanvasAgg, set_texts, split_by_font

ROOT = Path(__file__).parents[2]
DEJAVU, STIX = (DATA / "fonts" / "ttf" / name for name in ("DejaVuSans.ttf", "STIXGeneral.ttf"))


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_figures_are_drawn_whatever_mplbackend_says(backend: str) -> None:
    code = "import os, util.plotting as p; p.FigureCanvasAgg(p.Figure()).draw(); print(os.environ['MPLBACKEND'])"
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{backend}\n", "")


def test_matplotlib_is_imported_in_one_place() -> None:
    files = [file for file in ROOT.rglob("*.py") if not re.match(r"\.venv|tests", file.relative_to(ROOT).parts[0])]
    importing = [file.name for file in files if re.search(r"^\s*(import|from) matplotlib", file.read_text("utf-8"), re.MULTILINE)]
    assert len(files) > 50 and importing == ["plotting.py"]


@pytest.fixture
def no_caches() -> None:
    for function in (plotting._font_of, plotting._system_fonts, plotting._report_escapes):
        function.cache_clear()


def test_a_font_that_has_the_letters(no_caches: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    rare, unknown = "\u20e8", "\U0010fffe"  # STIX has the first, DejaVu neither
    monkeypatch.setattr(plotting, "_system_fonts", lambda: [Path("gone.ttf"), STIX])
    assert split_by_font("✓ é") == [("✓ é", DEJAVU)] and split_by_font("") == []
    assert split_by_font(f"✓ {rare}a") == [("✓ ", DEJAVU), (rare, STIX), ("a", DEJAVU)]
    assert split_by_font("a", bold=True)[0][1].name == "DejaVuSans-Bold.ttf" and capsys.readouterr().err == ""
    for _ in range(3):
        assert split_by_font(f"a{unknown}\n\x1b\udce9") == [("a\\U0010fffe\\n\\x1b\\xe9", DEJAVU)]
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "fonts-noto-cjk" in error


def test_names_in_figures(no_caches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No formulas, and no warning of a glyph that is missing."""
    monkeypatch.setattr(plotting, "_system_fonts", lambda: [STIX])
    names = [r"$\frac$", "_hidden", "猫 \u20e8 عربى", "a^b_{c}$", "x\n" * 30, "", "w" * 500]
    figure = Figure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_texts([figure.text(0, 0, "") for _ in names], names)
        FigureCanvasAgg(figure).draw()
    assert [text.get_text() for text in figure.texts][:2] == names[:2]
    assert figure.texts[2].get_fontfamily()[0] == "DejaVu Sans"
