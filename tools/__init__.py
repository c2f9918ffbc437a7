"""Command lines: thin layers over models, datasets and attribution."""

import sys

from util.startup import start

if sys.argv[0] == "-m":  # `python -m tools.<name>`, which is about to be imported
    start()
