"""The table of a comparison."""

import statistics
from collections.abc import Mapping, Sequence

__all__ = ["table"]


def table(rounds: Sequence[Mapping[str, float]], peaks: Mapping[str, float | None]) -> str:
    """A line for each contender, from the seconds a step in each round and the MiB, where known, by name."""
    lines = [f"{'':26}{'us/step':>10}{'ratio':>8}{'quartiles':>16}{'peak MiB':>10}"]
    for name, mib in peaks.items():
        median = statistics.median(seconds[name] for seconds in rounds)
        low, middle, high = quartiles([seconds[name] / seconds["plain"] for seconds in rounds])
        peak = "" if mib is None else f"{mib:.0f}"
        lines.append(f"{name:26}{median * 1e6:10.0f}{middle:8.2f}{f'{low:.2f}-{high:.2f}':>16}{peak:>10}")
    return "\n".join(lines)


def quartiles(values: list[float]) -> list[float]:
    """The three of them; a value alone is all three."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
