"""Serve tools.app as a Hugging Face Space: this file, the repository's code and `checkpoint.pth` lie in one folder."""

from pathlib import Path

from predictor import Predictor
from tools.app import build_page, import_gradio

gradio = import_gradio()
page = build_page(gradio, Predictor.from_checkpoint(Path(__file__).with_name("checkpoint.pth")))

if __name__ == "__main__":
    page.launch()  # a Space sets address and port by GRADIO_SERVER_NAME and GRADIO_SERVER_PORT
