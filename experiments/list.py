"""What there is to choose from: ids, presets, algorithms, masks, observations, controls, from their own tables."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym

import steer_env
from agents.algos import table
from agents.report.markdown import markdown_table
from agents.runs.config import one_of
from steer_env.envs.scene import MASKS as SCOPES
from steer_env.evaluation.controls import BOX_ONLY
from steer_env.lm.presets import embedded_presets, find_preset

Rows = Iterable[tuple[str, ...]]


def environments() -> Rows:
    """Every registered id with its task; a task without an embedded model needs ``model=`` and ``sae=``."""
    for env_id, spec in gym.registry.items():
        if "steer_env" in str(spec.entry_point):
            task = spec.kwargs["task"]
            yield env_id, task, about(steer_env.TASKS[task]), runs_on(task)


def presets() -> Rows:
    """Every preset; the embedded one is another model for another task."""
    yield "embedded", "the tiny model here that knows the task", "the card's", "no download; not the benchmark's score"
    for name in embedded_presets():
        yield name, "the same by name, for tasks of your own", "the card's", "no download"
    for name, row in steer_env.PRESETS.items():
        where = f"{row.site} of block {row.layer}"
        others = ", ".join(str(layer) for layer in row.saes if layer != row.layer)
        needs = f"licence on the hub (else {row.alternative})" if row.gated else "download"
        if row.saes:
            needs += " of the model alone"
        yield name, row.model, f"{where} (layer= {others} too)" if others else where, needs


def algorithms() -> Rows:
    """Every algorithm of Stable-Baselines3 and its contrib that is offered."""
    for row in table():
        yield tuple(row.values())


def masks() -> Rows:
    """Every mask of legal actions."""
    for name, row in steer_env.MASKS.items():
        yield name, f"{about(row.make)} Scope: {SCOPES[row.scope]}." if row.make else "Every feature is legal."


def observations() -> Rows:
    """What an agent may see."""
    for name, make in steer_env.OBSERVATIONS.items():
        yield name, about(make)


def controls() -> Rows:
    """What a trained policy has to beat."""
    for name, make in steer_env.CONTROLS.items():
        yield name, about(make), "strengths only" if name in BOX_ONLY else "all actions"


TABLES: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "environments": (("id", "task", "what is asked and what scores", "runs on"), environments),
    "presets": (("preset", "model", "SAE at", "needs"), presets),
    "algorithms": (tuple(table()[0]), algorithms),
    "masks": (("mask", "what is legal"), masks),
    "observations": (("observation", "what it is"), observations),
    "controls": (("control", "what it does", "for"), controls),
}


@dataclass(frozen=True)
class ListConfig:
    """Show what there is to choose from, and what each needs."""

    only: Annotated[str, one_of(("everything", *TABLES))] = "everything"
    """One of the tables."""
    markdown: bool = False
    """Print Markdown, as the pages have it."""


def main(cfg: ListConfig) -> None:
    """Print the tables."""
    from rich.console import Console

    if cfg.markdown:
        for name in TABLES if cfg.only == "everything" else (cfg.only,):
            columns, rows = TABLES[name]
            print(markdown_table(columns, list(rows())))
        return

    console = Console()
    for name in TABLES if cfg.only == "everything" else (cfg.only,):
        console.print(as_table(name))


def about(thing: Any) -> str:
    """The first sentence of its documentation."""
    text = " ".join((thing.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".") + "."


def runs_on(task: str) -> str:
    """The embedded model that knows the task, or what has to be given."""
    try:
        return f"embedded {find_preset('embedded', task).model.rpartition('/')[2]} model"
    except ValueError:
        return "model= and sae="


def as_table(name: str) -> Any:
    """One of ``TABLES`` for the terminal."""
    from rich import box
    from rich.table import Table

    columns, rows = TABLES[name]
    table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows():
        table.add_row(*row)
    return table
