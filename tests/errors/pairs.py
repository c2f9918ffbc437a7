"""Wrong pairs and masks, and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.errors.world import Case, pairs, writes

MEASURE = "tools.evaluate_attribution --resume model.pth --output_dir measured"


def mask(path: str, size: tuple[int, int] = (48, 40), mode: str = "L", value: int = 0) -> Any:
    """Return a function that writes a mask of one value."""

    def put() -> None:
        pairs()()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size[::-1], len(mode)), value, np.uint8).squeeze(), mode).save(path)

    return put


PAIRS = [
    Case(
        "key points of another form",
        f"{MEASURE} --metrics parts",
        'datasets/birds/annotations.json: is not of the form of tools.prepare_dataset; expected {"<split>/<class>/<file>": '
        '{"box": [left, top, right, bottom], "parts": {"<part>": [x, y]}}}',
        writes("datasets/birds/annotations.json", '{"images": []}'),
    ),
    Case(
        "annotations without key points",
        f"{MEASURE} --metrics parts",
        "--metrics parts: there is nothing that parts could be measured by: datasets/birds/annotations.json has no key points "
        "(parts)",
        writes("datasets/birds/annotations.json", '{"val/wren/0.png": {"z": 1}}'),
    ),
    Case(
        "no list of pairs",
        f"{MEASURE} --pairs none.json",
        '--pairs none.json: No such file or directory; expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]',
    ),
    Case(
        "a list of pairs that is no JSON",
        f"{MEASURE} --pairs pairs",
        '--pairs pairs/pairs.json: is not JSON ({reason}); expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]',
        writes("pairs/pairs.json", "["),
    ),
    Case(
        "a list of pairs that is none",
        f"{MEASURE} --pairs pairs",
        '--pairs pairs/pairs.json: not a list; expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]',
        writes("pairs/pairs.json", "{}"),
    ),
    Case(
        "an empty list of pairs",
        f"{MEASURE} --pairs pairs",
        '--pairs pairs/pairs.json: an empty list; expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]',
        writes("pairs/pairs.json", "[]"),
    ),
    Case(
        "an entry without a class",
        f"{MEASURE} --pairs pairs",
        "--pairs pairs/pairs.json: entry 1 lacks the text 'file', 'A' or 'B'; expected [{\"file\": "
        '"street.jpg", "A": "bus", "B": "tram"}, ...]',
        pairs({"file": "street.png", "A": "wren"}),
    ),
    Case(
        "an entry with an unknown class",
        f"{MEASURE} --pairs pairs",
        "--pairs pairs/pairs.json: entry 1: B is 'wrem', not one of the model's 3 classes: 'wren', ...",
        pairs(B="wrem"),
    ),
    Case(
        "an entry with one class",
        f"{MEASURE} --pairs pairs",
        "--pairs pairs/pairs.json: entry 1: A and B are both 'finch'; a pair has two classes",
        pairs(B="finch"),
    ),
    Case(
        "a pair without its picture",
        f"{MEASURE} --pairs pairs",
        "pairs/road.png: does not exist (any more)",
        pairs(file="road.png"),
    ),
    Case(
        "a pair without a mask",
        f"{MEASURE} --pairs pairs",
        "pairs/street.B.png: is missing; expected the mask of an object in street.png, bright on the object",
        lambda: (pairs()(), Path("pairs/street.B.png").unlink()),
    ),
    Case(
        "a pair with a mask of another size",
        f"{MEASURE} --pairs pairs",
        "pairs/street.B.png: is 30 x 20, its picture is 48 x 40; they must have one size",
        mask("pairs/street.B.png", (30, 20)),
    ),
    Case(
        "a pair with an empty mask",
        f"{MEASURE} --metrics own_hit --pairs pairs",
        "pairs/street.B.png: the mask is empty; expected 0 outside the object, 255 on it",
        mask("pairs/street.B.png"),
    ),
    Case(
        "no folder of masks",
        f"{MEASURE} --masks none",
        "--masks none: no picture has a mask there; expected none/val/wren/0.png for datasets/birds/val/wren/0.png",
    ),
    Case(
        "a mask of another size",
        f"{MEASURE} --masks masks",
        "--masks: masks/val/wren/0.png is 30 x 20, its picture 48 x 40: they must have one size",
        mask("masks/val/wren/0.png", (30, 20)),
    ),
    Case(
        "results of maps that do not exist",
        "tools.report --resume model.pth --out page --attribution none.json",
        "--attribution none.json cannot be read (No such file or directory): give an attribution.json of "
        "tools.evaluate_attribution",
    ),
]

EXPORT = [
    Case(
        "a format that does not exist",
        "tools.export --resume model.pth --to tensorflow --out m",
        "argument --to: invalid choice: 'tensorflow' (choose from {list}) (--help lists the flags)",
    ),
    Case(
        "another ending than the format has",
        "tools.export --resume model.pth --to onnx --out model.bin",
        "--out model.bin: give a file that ends in .onnx",
    ),
    Case(
        "a model that INTR cannot have",
        "tools.export --resume model.pth --to intr --out intr.pth",
        "INTR has the ResNets of torchvision, not test_resnet: choose another format",
    ),
    Case(
        "an upload of a single file",
        "tools.export --resume model.pth --to onnx --out m.onnx --push me/birds",
        "--push is of --to dir, a folder with a model card: leave it out, or give --to dir",
    ),
    Case(
        "8 bits in another format",
        "tools.export --resume model.pth --to safetensors --out m.safetensors --int8",
        "--int8 is of --to onnx, not of --to safetensors: leave it out",
    ),
    Case(
        "results that do not exist",
        "tools.export --resume model.pth --to dir --out birds --results none",
        "--results none is no folder of results of this model: it has no results.json (python main.py --eval), data/summary.js "
        "(python -m tools.report) or attribution.json (python -m tools.evaluate_attribution)",
    ),
    Case(
        "an upload to a name that is none",
        'tools.export --resume model.pth --to dir --out birds --push "my birds"',
        "--push 'my birds' is no name of a repository of the hub: give owner/repo",
    ),
    Case(
        "an address without an owner",
        "main.py --eval --resume hf://birds",
        "checkpoint hf://birds is no address of a file on the hub: give hf://owner/repo, "
        "hf://owner/repo/file or either with @revision",
    ),
    Case(
        "an address that leads out of the repository",
        "main.py --eval --resume hf://me/birds/../../x.pth",
        "checkpoint hf://me/birds/../../x.pth is no address of a file on the hub: give hf://owner/repo, "
        "hf://owner/repo/file or either with @revision",
    ),
    Case(
        "weights of another network",
        "tools.convert_weights --source model.pth --backbone resnet18 --out w.pth",
        "model.pth has {n} tensors, resnet18 has {n}: not the same network",
    ),
]
