"""Makes the steps of a job slow, where ICN_TEST_PAUSE says so: found by way of PYTHONPATH."""

import os
import sys

PAUSE = float(os.environ.get("ICN_TEST_PAUSE") or 0)


class Slow:
    """Waits for `engine` to be imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "main" and "engine" not in sys.modules:
            import time

            from engine import Learner

            update = Learner.update

            def slow(learner: Learner, batches: object) -> object:
                time.sleep(PAUSE)
                return update(learner, batches)  # type: ignore[arg-type]

            Learner.update = slow  # type: ignore[method-assign, assignment]


if PAUSE:
    sys.meta_path.insert(0, Slow())  # type: ignore[arg-type]
