"""Errors of the model name a parameter; the command line turns it into its flag. The public names cost no torch until used."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import models
from models import ParameterError
from models.reading import first_line
from util.cli import Parser, launch


def test_the_command_line_names_the_flag(capsys: pytest.CaptureFixture) -> None:
    def main(args: object) -> None:
        raise ParameterError("nheads", "num_heads 7 must divide hidden_dim 64")

    with pytest.raises(SystemExit) as stop:
        launch(main, Parser("prog"), [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "prog: error: --nheads: num_heads 7 must divide hidden_dim 64\n"


def test_it_crosses_process_borders() -> None:
    error = pickle.loads(pickle.dumps(ParameterError("window", "24 is too small")))
    assert isinstance(error, ValueError) and error.parameter == "window" and str(error) == "24 is too small"


def test_the_first_line() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one" and first_line(KeyError()) == "KeyError"


def test_flags_of_a_model_import_no_torch() -> None:
    code = "import sys, models; models.ARCHITECTURE, models.DECODERS, models.ParameterError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert all(getattr(models, name) is not None for name in models._MODULES)
    with pytest.raises(ImportError, match="nothing"):
        exec("from models import nothing")
