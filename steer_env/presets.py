"""Which model, which SAE, where and how hard to steer: one row each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class Preset:
    """A model and the SAE that steers it.

    Attributes:
        model: Hugging Face id or local folder.
        sae: SAELens folder or ``"release:sae_id"``.
        layer: Block ``L``.
        site: ``"post"`` (output of the block) or ``"pre"`` (its input).
        coefficient: How much of a direction one action adds.
        coefficient_unit: ``"norm"`` (times the median residual norm at the site) or ``"residual"``.
        residual_norm: That median, where it was measured once; None measures it on the task's prompts.
        benchmark: Whether scores may carry the benchmark's name.
    """

    model: str
    sae: str
    layer: int
    site: str = "post"
    coefficient: float = 1.0
    coefficient_unit: str = "norm"
    residual_norm: float | None = None
    benchmark: bool = True


def find_preset(name: str, task: str) -> Preset:
    """The preset's row for a task.

    Raises:
        ValueError: No such preset, or it holds no model for the task.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {sorted(PRESETS)}")
    return PRESETS[name](task)


def _embedded(task: str) -> Preset:
    """The tiny model in this package that knows the task; its card says how to steer it."""
    folder = EMBEDDED / task
    if not (folder / "card.json").is_file():
        raise ValueError(f"no embedded model knows task {task!r}; give model=, sae= and layer=, or another preset")
    steering = json.loads((folder / "card.json").read_text())["steering"]
    return Preset(model=str(folder), sae=str(folder / "sae"), benchmark=False, **steering)


PRESETS: dict[str, Callable[[str], Preset]] = {"embedded": _embedded}
