"""Which model, which SAE, where and how hard to steer: one row each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parents[1] / "embedded"
SAES = Path(__file__).parents[1] / "saes"


@dataclass(frozen=True)
class Preset:
    """A model and the SAE that steers it.

    Attributes:
        model: Hugging Face id or local folder.
        sae: SAELens folder or ``"release:sae_id"``.
        layer: Block ``L``.
        site: ``"post"`` (output of the block) or ``"pre"`` (its input).
        coefficient: How much of a direction one action adds; directions are the SAE's own, not all of length 1.
        coefficient_unit: ``"norm"`` (times the median residual norm at the site, as
            :class:`steer_env.envs.settings.Settings` says) or ``"residual"``.
        residual_norm: That median, where it was measured once; None measures it on the task's train split.
        chat: Whether prompts are put into the tokenizer's chat template.
        benchmark: Whether scores may carry the benchmark's name.
        gated: Whether the model's licence must be accepted on the hub before it can be fetched.
        licence: The model's, as the hub names it; empty where it is not known.
        alternative: A preset that is not gated, for those to whom this one is refused.
        saes: SAEs of other blocks; another ``layer`` takes the one there.
    """

    model: str
    sae: str
    layer: int
    site: str = "post"
    coefficient: float = 0.5
    coefficient_unit: str = "norm"
    residual_norm: float | None = None
    chat: bool = False
    benchmark: bool = True
    gated: bool = False
    licence: str = ""
    alternative: str = ""
    saes: Mapping[int, str] = field(default_factory=dict)


def _shipped(model: str) -> dict[int, str]:
    """The SAEs in this package for a model, by block; ``steer make-sae`` made them."""
    return {int(folder.name.removeprefix("block-")): str(folder) for folder in sorted((SAES / model).glob("block-*"))}


_SMOLLM2 = _shipped("smollm2-135m-instruct")

# Coefficients are where to start, for layer and coefficient are to be chosen on validation items. Of the SAEs of a
# model those are taken that read the residual of the plain Hugging Face model. GPT-2's best known ones do not: they
# want it centred, as TransformerLens has it.
PRESETS: dict[str, Preset] = {
    "smollm2-135m-instruct": Preset(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        sae=_SMOLLM2[22],
        layer=22,
        coefficient=0.5,
        chat=True,
        saes=_SMOLLM2,
    ),
    "gpt2": Preset(
        model="openai-community/gpt2",
        licence="mit",
        sae="gpt2-small-resid-post-v5-32k:blocks.8.hook_resid_post",
        layer=8,
    ),
    "pythia-70m": Preset(
        model="EleutherAI/pythia-70m-deduped",
        licence="apache-2.0",
        sae="pythia-70m-deduped-res-sm:blocks.3.hook_resid_post",
        layer=3,
    ),
    "gemma-3-270m": Preset(
        model="google/gemma-3-270m",
        licence="gemma",
        sae="gemma-scope-2-270m-pt-res:layer_12_width_16k_l0_medium",
        layer=12,
        gated=True,
        alternative="gpt2",
    ),
    "gemma-2-2b": Preset(
        model="google/gemma-2-2b",
        licence="gemma",
        sae="gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical",
        layer=12,
        coefficient=50.0,
        coefficient_unit="residual",
        gated=True,
        alternative="qwen3-1.7b",
    ),
    # Control Reinforcement Learning (arXiv 2602.10437): the base model's SAE, no chat template, 10 to 100 in residual
    # units.
    "gemma-2-2b-it": Preset(
        model="google/gemma-2-2b-it",
        licence="gemma",
        sae="gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical",
        layer=12,
        coefficient=50.0,
        coefficient_unit="residual",
        gated=True,
        alternative="qwen3-1.7b",
    ),
    "gemma-2-9b-it": Preset(
        model="google/gemma-2-9b-it",
        licence="gemma",
        sae="gemma-scope-9b-it-res-canonical:layer_20/width_16k/canonical",
        layer=20,
        chat=True,
        gated=True,
        alternative="deepseek-r1-distill-llama-8b",
    ),
    "llama-3.1-8b": Preset(
        model="meta-llama/Llama-3.1-8B",
        licence="llama3.1",
        sae="llama_scope_lxr_8x:l15r_8x",
        layer=15,
        gated=True,
        alternative="deepseek-r1-distill-llama-8b",
    ),
    "llama-3.1-8b-instruct": Preset(
        model="meta-llama/Llama-3.1-8B-Instruct",
        licence="llama3.1",
        sae="goodfire-llama-3.1-8b-instruct:layer_19",
        layer=19,
        chat=True,
        gated=True,
        alternative="deepseek-r1-distill-llama-8b",
    ),
    "qwen3-1.7b": Preset(
        model="Qwen/Qwen3-1.7B-Base",
        licence="apache-2.0",
        sae="qwen-scope-3-1.7b-base-w32k-l50:layer14",
        layer=14,
    ),
    "deepseek-r1-distill-llama-8b": Preset(
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        licence="mit",
        sae="deepseek-r1-distill-llama-8b-qresearch:blocks.19.hook_resid_post",
        layer=19,
        chat=True,
    ),
}


def find_preset(name: str, task: str) -> Preset:
    """The preset's row for a task.

    Args:
        name: Key of ``PRESETS``; ``"embedded"`` for the embedded model that knows the task; or one of
            `embedded_presets` for that model whatever the task is. With a task that it does not know, it is steered
            by the first SAE on its card, and the residual norm is measured.
        task: Key of the task table.

    Raises:
        ValueError: No such preset, or it holds no model for the task.
    """
    if name == "embedded":
        return _embedded(task)
    if name in embedded_presets():
        folder = EMBEDDED / name.removeprefix("embedded-")
        rows = json.loads((folder / "card.json").read_text())["steering"]
        return _steered(folder, rows[task] if task in rows else next(iter(rows.values())) | {"residual_norm": None})
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {sorted(['embedded', *embedded_presets(), *PRESETS])}")
    return PRESETS[name]


def embedded_presets() -> tuple[str, ...]:
    """The embedded models by name, for tasks of your own: ``"embedded-locked"`` and ``"embedded-tictactoe"``."""
    return tuple(f"embedded-{card.parent.name}" for card in sorted(EMBEDDED.glob("*/card.json")))


def is_embedded(name: str) -> bool:
    """Whether a preset is an embedded model: it is asked the embedded items, and its scores are no benchmark's."""
    return name == "embedded" or name in embedded_presets()


def licence_of(model: str) -> str | None:
    """The licence of a language model, as the hub names it; None where it is in no row and not in this package."""
    if Path(model).is_relative_to(EMBEDDED):
        return "mit"
    return next((row.licence for row in PRESETS.values() if row.model == model and row.licence), None)


def ungated_alternative(model: str) -> str | None:
    """The preset to take in place of one whose ``model`` is gated; None where the model is in no such row."""
    return next((row.alternative for row in PRESETS.values() if row.gated and row.model == model), None)


def _embedded(task: str) -> Preset:
    """The tiny model in this package that knows the task; its card says how to steer it there."""
    for path in sorted(EMBEDDED.glob("*/card.json")):
        steering = json.loads(path.read_text())["steering"]
        if task in steering:
            return _steered(path.parent, steering[task])
    raise ValueError(f"no embedded model knows task {task!r}; give model=, sae= and layer=, or another preset")


def _steered(folder: Path, row: dict[str, Any]) -> Preset:
    return Preset(model=str(folder), benchmark=False, **row | {"sae": str(folder / row["sae"])})
