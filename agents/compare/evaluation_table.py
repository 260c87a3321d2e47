"""An evaluation as people read it: the table of arms on the terminal, and train beside test in one sentence."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(result: dict[str, Any], path: Path) -> None:
    """The table of arms on the terminal, and one of the task's own numbers."""
    what = f"{result['run']}, {result['episodes']} items of {result['split']}, temperature {result['temperature']:g}"
    table = Table(title=what, caption=f"{train_and_test(result)}\n{path}", box=None, padding=(0, 2, 0, 0))
    for column in ("arm", "score", "95 %", "corrected", "broken", "p (Holm)", "features"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, arm in result["arms"].items():
        test = result["tests"].get(f"trained_vs_{name}")
        table.add_row(
            name,
            f"{arm['score']:.3f}",
            "{:.3f}-{:.3f}".format(*arm["ci95"]),
            str(arm["corrected"]),
            str(arm["broken"]),
            f"{test['p_holm']:.1e}" if test else "",
            str(arm["distinct_features"]),
        )
    Console().print(table)
    Console().print(_summaries(result["arms"]))


def _summaries(arms: dict[str, dict[str, Any]]) -> Table:
    """The task's own numbers, a row each and a column an arm: tasks have more numbers than there are arms."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, min_width=max(map(len, next(iter(arms.values()))["summary"]), default=0))
    for name in arms:
        table.add_column(name.replace("_", " "), justify="right", min_width=5)
    for number in next(iter(arms.values()))["summary"]:
        table.add_row(number, *(f"{arm['summary'][number]:.3f}" for arm in arms.values()))
    return table


def train_and_test(result: dict[str, Any]) -> str:
    """One sentence: the trained agent's scores on the train split and on the evaluated one, and what they share."""
    arm = result["arms"]["trained"]
    return (
        f"Trained: {arm['train_score']:.3f} on {arm['train_n']} items of train, {arm['score']:.3f} on {arm['n']} of "
        f"{result['split']} ({arm['distinct_completions']} distinct completions); {arm['seen_in_train']:.0%} of the "
        "latter went as one of the former"
    )
