"""Time to accuracy: the arithmetic of its table, the energy meter, and one small training from flags to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY

from tools.benchmark import energy
from tools.benchmark.__main__ import get_args_parser, main
from tools.benchmark.time_to import Training, recipe_names, table
from util.cli import parse


def training(recipe: str, accuracies: list[float], joules: float | None = None, pace: float = 10.0) -> Training:
    seconds = [pace * (epoch + 1) for epoch in range(len(accuracies))]
    return Training(recipe, 0, seconds, accuracies, seconds[-1] + 5, joules)


def test_the_table_has_medians_and_what_was_not_reached() -> None:
    found = [training("a", [50, 98, 97], 3000.0, pace) for pace in (10, 20, 70)]
    found += [training("b", [97.5, 96]), training("b", [98, 96])]
    rows = table(found, 98).splitlines()
    assert rows[0] == "| recipe | seeds | seconds to 98 % | best, % | seconds in all | energy, kJ |"
    assert rows[2] == "| a | 3 | 40 | 98.00 | 65 | 3.0 |"
    assert rows[3] == "| b | 2 | not reached by 1 of 2: best 98.00 % after 20 s | 97.75 | 25 | - |"
    assert "| not reached: best 97.50 % after 20 s |" in table(found[3:4], 98)


def test_energy_is_that_of_processors_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that starts again at its maximum goes on; the parts of a processor are not counted twice."""
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    for name in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("9000000")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000")
    with energy.Energy(tmp_path) as meter:
        for name, count in (("intel-rapl:0", "9500000"), ("intel-rapl:0:1", "9900000"), ("intel-rapl:1", "2000000")):
            (tmp_path / name / "energy_uj").write_text(count)
    assert meter.joules == pytest.approx(0.5 + 3)
    with energy.Energy(tmp_path / "none") as meter:
        pass
    assert meter.joules is None
    monkeypatch.setattr(energy.Energy, "_gpu_watts", lambda self: 200.0)
    with energy.Energy(tmp_path / "none") as meter:
        meter.last -= 10
    assert meter.joules == pytest.approx(2000, rel=0.1)


def test_recipes_that_are_missing_or_have_one_name(tmp_path: Path) -> None:
    for name in ("a.args", "b.args", "other/a.args"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert recipe_names([str(tmp_path / "a.args"), str(tmp_path / "b.args")]) == ["a", "b"]
    with pytest.raises(ValueError, match="two files have the name a: rename one"):
        recipe_names([str(tmp_path / "a.args"), str(tmp_path / "other/a.args")])
    with pytest.raises(ValueError, match=r"--recipe .*c\.args: there is no such file"):
        recipe_names([str(tmp_path / "c.args")])
    with pytest.raises(ValueError, match="--time_to needs --recipe"):
        main(parse(get_args_parser(), ["--time_to", "98", "--device", "cpu", "--output_dir", str(tmp_path)]))


def test_a_training_from_flags_to_files(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tmp_path / "tiny.args"
    recipe.write_text(f"{TINY} --num_workers 0 --square --image_size 48 --batch_size 8 --epochs 2\n")
    flags = ["--time_to", "1", "--recipe", recipe, "--seeds", 3, "--dataset_path", colours, "--dataset_name", "colours"]
    flags += ["--device", "cpu", "--threads", 1, "--output_dir", tmp_path / "out", "--dropout", "0.2"]
    main(parse(get_args_parser(), [*map(str, flags)]))
    table = capsys.readouterr().out
    assert "| tiny | 1 |" in table and table.strip() == (tmp_path / "out/time_to.md").read_text().strip()
    numbers = json.loads((tmp_path / "out/time_to.json").read_text())
    (found,) = numbers["trainings"]
    assert len(found["seconds"]) == 2 == len(found["accuracies"]) and found["total"] > found["seconds"][-1] > 0
    assert "--dropout" in numbers["flags"] and found["seed"] == 3 and (tmp_path / "out/time_to.png").stat().st_size > 1000
    assert [path.name for path in (tmp_path / "out/logs").iterdir()] == ["tiny_seed3.txt"]
    recipe.write_text("--lr_backbone 0\n")
    with pytest.raises(ValueError, match=r"--recipe tiny: .*--lr_backbone 0 would freeze random weights"):
        main(parse(get_args_parser(), [*map(str, flags)]))
