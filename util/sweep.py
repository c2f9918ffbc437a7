"""Sweeps: one command line expanded to a run per recipe (a file of flags) and per seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .cli import Flags, Parser, parse
from .number import SEED


class RecipeParser(Parser):
    """Parser of files of flags; its errors are ValueErrors."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"--recipes {message}; give files of main.py's flags, as those in recipes/")


def expand_runs(args: Flags, make_parser: Callable[[], Parser]) -> list[Flags]:
    """Return the flags of every run: each of `recipes` with each of `seeds`, in a folder of its own; `args` alone without them.

    ValueError for flags that exclude each other, a file that is no recipe, two recipes of one name.
    """
    if not (args.seeds or args.recipes):
        return [args]
    if args.tool != "main" or (args.eval and args.recipes):
        flag, other = "--recipes" if args.recipes else "--seeds", "--eval" if args.tool == "main" else f"--tool {args.tool}"
        raise ValueError(f"{flag} is for trainings: leave it out with {other}")
    names = [Path(file).stem for file in args.recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"--recipes {' '.join(args.recipes)}: two have one name, and would have one folder; rename one")
    runs = []
    for base in [apply_recipe(args, file, make_parser()) for file in args.recipes] or [args]:
        for seed in parse_seeds(args.seeds) if args.seeds else [base.seed]:
            folder = f"{base.output_sub_dir}_seed{seed}"
            runs.append(base.replace(seed=seed, output_sub_dir=folder, explicit=base.explicit | {"seed"}))
    return runs


def apply_recipe(args: Flags, file: str, flags: Parser) -> Flags:
    """Return `args` with the flags of a recipe, unless they were typed, and its name appended to the output folder's."""
    recipe = parse(RecipeParser(parents=[flags], add_help=False), [f"@{file}"])
    changes = {name: getattr(recipe, name) for name in recipe.explicit - args.explicit}
    changes.setdefault("output_sub_dir", args.output_sub_dir)
    changes["output_sub_dir"] += f"_{Path(file).stem}"
    return args.replace(**changes, explicit=args.explicit | recipe.explicit)


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds, a ValueError otherwise: `0-2,7` is `[0, 1, 2, 7]`."""
    numbers: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first > 1000 or not SEED.allows(last):
            raise ValueError(f"--seeds {text!r} is no list of seeds: give it as 0-4 or 0,3,7")
        numbers += range(first, last + 1)
    return sorted(set(numbers))
