"""Explain photographs in a browser: `python -m tools.app --resume <checkpoint.pth>` (needs gradio: pip install gradio)

Drop in a photograph, choose a class, a class to compare it with, and a method, and see the map. The page is served on this
machine alone unless --host says otherwise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/app.py` works too

from attribution.methods.registry import methods_of
from flags import DEVICES
from predictor import Predictor
from util.cli import Flags, Parser, launch
from util.number import Number

PROG = "python -m tools.app"
NO_CLASS = -1  # in a list of classes: the predicted one, or none to compare with
TOPK = 5


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0: reachable from other machines")
    parser.add_argument("--port", default=7860, type=Number(int, 0, 65535), help="port to serve on")
    parser.add_argument("--device", default="cuda", help=DEVICES)
    return parser


def main(args: Flags) -> None:
    """Serve the page until Ctrl-C; a ValueError where gradio is missing or the checkpoint cannot be used."""
    gradio = import_gradio()
    predictor = Predictor.from_checkpoint(args.resume, args.device)
    try:
        build_page(gradio, predictor).launch(server_name=args.host, server_port=args.port, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        raise ValueError(f"--port {args.port} cannot be served on: {error}") from None
    print(f"open http://{args.host}:{args.port} (Ctrl-C ends it)", flush=True)
    import threading

    threading.Event().wait()


def import_gradio() -> Any:
    """Return the package gradio, which then sends nothing about its use."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise ValueError("the package gradio is not installed: pip install gradio") from None
    return gradio


def build_page(gradio: Any, predictor: Predictor) -> Any:
    """Return the page, a `gradio.Blocks`."""
    usable = (method for method in methods_of(predictor.model, truth=()) if method.family != "control" and method.is_installed)
    methods = [method.name for method in usable]
    default = predictor.model.decoder_spec.default_map
    classes = sorted((name, index) for index, name in enumerate(predictor.classes))  # label and value of an option
    with gradio.Blocks(title="ICN") as page:
        gradio.Markdown(f"# ICN: why this class?\n{len(classes)} classes, {predictor.model.decoder_name} decoder")
        with gradio.Row():
            with gradio.Column():
                photo = gradio.Image(type="filepath", label="photograph")
                class_ = gradio.Dropdown([("the predicted class", NO_CLASS), *classes], value=NO_CLASS, label="explain")
                against = gradio.Dropdown([("nothing", NO_CLASS), *classes], value=NO_CLASS, label="compared with")
                method = gradio.Dropdown(methods, value=default, label="method")
            with gradio.Column():
                drawn = gradio.Image(label="map", format="png")
                words = gradio.Markdown()
                label = gradio.Label(num_top_classes=TOPK, label="classes")
        outputs = [drawn, words, label]
        for control in (photo, class_, against, method):
            control.change(lambda *values: explain(gradio, predictor, *values), [photo, class_, against, method], outputs)
    return page


def explain(
    gradio: Any, predictor: Predictor, photo: str | None, class_: int, against: int, method: str
) -> tuple[Any, str, dict[str, float]]:
    """Return the map over the photograph, a sentence about it, and the probabilities; what is wrong is said in place of them."""
    if photo is None:
        return None, "", {}
    try:
        (prediction,) = predictor.predict(photo, topk=TOPK)
        chosen, other = (None if index == NO_CLASS else index for index in (class_, against))
        explanation = predictor.explain(photo, chosen, other, method)
    except ValueError as error:
        raise gradio.Error(str(error), print_exception=False) from None
    compared = "" if explanation.against is None else f" and not {explanation.against}"
    refused = f"**{prediction.answer}**; " if prediction.known is False else ""
    words = f"{refused}{explanation.method}: where the model sees **{explanation.name}**{compared}"
    return explanation.overlay(), words, dict(zip(*prediction[:2], strict=True))


if __name__ == "__main__":
    launch(main, get_args_parser())
