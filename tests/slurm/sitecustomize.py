"""Makes the steps of a job, or its measurements, slow, where ICN_TEST_PAUSE says so: found by way of PYTHONPATH."""

import os
import sys

PAUSE = float(os.environ.get("ICN_TEST_PAUSE") or 0)


class Slow:
    """Waits for `engine`, or for the harness of the measurements, to be imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "main" and "engine" not in sys.modules:
            import time

            from trainer import Trainer

            update = Trainer.step

            def slow(trainer: Trainer, batches: object) -> object:
                time.sleep(PAUSE)
                return update(trainer, batches)  # type: ignore[arg-type]

            Trainer.step = slow  # type: ignore[method-assign, assignment]
        if name == "tools.evaluate_attribution" and "attribution.evaluation.harness" not in sys.modules:
            import time

            from attribution.evaluation.harness import Harness

            measure = Harness.measure

            def slow_measure(harness: Harness, unit: object, method: object) -> object:
                time.sleep(PAUSE)
                return measure(harness, unit, method)  # type: ignore[arg-type]

            Harness.measure = slow_measure  # type: ignore[method-assign, assignment]


if PAUSE:
    sys.meta_path.insert(0, Slow())  # type: ignore[arg-type]
