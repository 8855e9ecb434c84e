"""Times calls in turns, so that a busy machine slows all alike."""

import time
from collections.abc import Callable
from typing import Any

TURN_SECONDS = 0.01  # shorter calls are repeated for as long
SETTLE_SECONDS = 0.015  # threads of others may spin for as long after a call
FEWEST_ROUNDS, MOST_ROUNDS = 3, 31


def time_all(
    calls: dict[Any, Callable[[], object]], seconds: float, on_progress: Callable[[str, float], object]
) -> dict[Any, list[float]]:
    """Seconds that each call takes, in each round. All rounds take about `seconds` for each of the calls;
    `on_progress` is told whose turn it was, and what part of all that was.
    """
    turn, settle = (min(limit, seconds / 10) for limit in (TURN_SECONDS, SETTLE_SECONDS))
    estimates = {}
    for name, call in calls.items():
        call()  # once without looking: kernels may have to be compiled, and memory to be touched
        estimates[name] = max(of_one(call, 1), 1e-9)
    counts = {name: max(1, round(turn / estimate)) for name, estimate in estimates.items()}
    round_seconds = sum(settle + counts[name] * estimate for name, estimate in estimates.items())
    affordable = round(seconds * len(calls) / max(round_seconds, 1e-9))
    rounds = min(max(affordable, FEWEST_ROUNDS), MOST_ROUNDS)
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(settle)
            if counts[name] > 1:
                call()  # to wake threads that have gone to sleep since
            found[name].append(of_one(call, counts[name]))
            on_progress(str(name), 1 / (rounds * len(calls)))
    return found


def of_one(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
