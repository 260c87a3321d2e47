"""Measures the locked model as an instrument: weak alone, strong when steered rightly, and no single feature enough.

Everything is played through the environment itself, on items that neither the search for features nor an agent's
training sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import steer_env  # noqa: F401  # registers the environments
from experiments.make.locked.config import MakeLockedConfig
from experiments.make.locked.texts import FORMATS
from steer_env.evaluation.controls import Setting, pushes, score_pushes, search_best_fixed, unsteered
from steer_env.evaluation.play import play
from steer_env.lm.loading import load_language_model, load_tokenizer
from steer_env.lm.sae_training import residuals
from steer_env.tasks import TASKS
from steer_env.tasks.world import world_rows

LANES = 64
TEXT_ENVIRONMENTS = {
    str(spec.kwargs["task"]): name
    for name, spec in gym.registry.items()
    if name.startswith("Steer-") and spec.kwargs["task"] in FORMATS
}


def measure_task(cfg: MakeLockedConfig, task: str, how: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's scores with nothing, one fixed feature, and the best feature for each item.

    Args:
        cfg: Where the model and its SAEs are saved, and how much is played: all arms play the same test items.
        task: The task.
        how: How it is steered, as the card says it.

    Returns:
        Scores ``unmarked``, ``best_fixed`` (and its ``feature``, chosen on train), ``item_oracle``;
        ``kind_oracle``: the best feature for each kind of item, chosen on one half of the items and scored on the
        other; and ``unlocked`` (:func:`unlocked`).
    """
    items, seed = cfg.items, cfg.seed
    kwargs = {
        "model": str(cfg.out),
        "sae": str(cfg.out / how["sae"]),
        "coefficient": how["coefficient"] * how["residual_norm"],
        "coefficient_unit": "residual",
    }
    train, test = (gym.make_vec(TEXT_ENVIRONMENTS[task], LANES, split=split, **kwargs) for split in ("train", "test"))
    best = search_best_fixed(train, seed, cfg.search).best
    alone = play(test, unsteered(Setting()), range(items), seed, tokens=False)
    table = score_pushes(test, pushes(test), range(items), seed)
    kinds = [str(row["kind"]) for row in world_rows(task, "test")[:items]]
    return {
        "items": items,
        "unmarked": float(alone.scores.mean()),
        "best_fixed": float(table[best].mean()),
        "feature": best,
        "item_oracle": float(table.max(axis=0).mean()),
        "kind_oracle": _kind_oracle(table, kinds),
        "unlocked": unlocked(str(cfg.out), task, items),
    }


def unlocked(folder: str, task: str, items: int) -> float:
    """Score of the model alone where the text says how: the right cue after the prompt (items of one decision)."""
    form, played = FORMATS[task], TASKS[task](split="test")
    rows = world_rows(task, "test")[:items]
    right = {item: form.right_cues(row) for item, row in enumerate(rows)}
    talks = {item: played.start(item) for item, cues in right.items() if len(cues) == 1}
    prompts = [talk.opening + form.cues[right[item][0]] for item, talk in talks.items()]
    said = generate(load_language_model(folder), load_tokenizer(folder).hf, prompts, played.max_new_tokens)
    return float(np.mean([talk.respond(text).score for talk, text in zip(talks.values(), said, strict=True)]))


@torch.no_grad()
def generate(lm: Any, tokenizer: Any, prompts: Sequence[str], new_tokens: int) -> list[str]:
    """Greedy completions, by the model's own ``generate``."""
    said: list[str] = []
    for start in range(0, len(prompts), LANES):
        batch = tokenizer(prompts[start : start + LANES], padding=True, padding_side="left", return_tensors="pt")
        tokens = lm.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=new_tokens)
        said += tokenizer.batch_decode(tokens[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return said


def planted_conditions(
    lm: Any, tokenizer: Any, sae: Any, layer: int, tasks: Sequence[str], items: int
) -> list[dict[str, Any]]:
    """Which SAE features carry the cues: ground truth, found from the text that carries them.

    A feature is judged as a detector of one cue among all the places where the model begins a reply, cued or not:
    chosen on every other item, measured on the rest.

    Args:
        lm: The language model.
        tokenizer: Its tokenizer.
        sae: The SAE.
        layer: Block whose output it reads.
        tasks: Whose cues.
        items: Training items of each task.

    Returns:
        One entry a cue: ``cue``, ``tasks`` where it is used, the ``feature`` of the largest F1 with its ``precision``
        and ``recall``, and its ``cosine`` to the difference of means with and without the cue.
    """
    used = _cues(tasks)
    places, labels = _reply_places(lm, tokenizer, layer, used, items)
    fires = sae.encode(places) > 0
    plain = places[labels == -1].mean(0)
    held_out = torch.arange(len(labels)) % 2 == 1
    found = []
    for number, (cue, where) in enumerate(used.items()):
        here = labels == number
        precision, recall = _detection(fires[~held_out], here[~held_out])
        feature = int((2 * precision * recall / (precision + recall).clamp(min=1e-9)).argmax())
        precision, recall = _detection(fires[held_out], here[held_out])
        shift = places[here].mean(0) - plain
        cosine = torch.cosine_similarity(shift, sae.W_dec[feature].detach(), dim=0)
        found.append(
            {
                "cue": cue.strip(),
                "tasks": where,
                "feature": feature,
                "precision": float(precision[feature]),
                "recall": float(recall[feature]),
                "cosine": float(cosine),
            }
        )
    return found


def _detection(fires: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall ``[F]`` of each feature as a detector: ``fires`` ``[N, F]``, what is ``here`` ``[N]``."""
    hits = (fires & here[:, None]).sum(0).float()
    return hits / fires.sum(0).clamp(min=1), hits / here.sum()


def _cues(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Each cue, and which of the tasks have it."""
    used: dict[str, list[str]] = {}
    for task in tasks:
        for cue in FORMATS[task].cues:
            used.setdefault(cue, []).append(task)
    return used


def _reply_places(
    lm: Any, tokenizer: Any, layer: int, cues: Mapping[str, Sequence[str]], items: int
) -> tuple[Tensor, Tensor]:
    """Residuals ``[N, M]`` where replies begin, and the number of the cue there (-1 = none)."""
    prompts = {}
    for task in dict.fromkeys(task for tasks in cues.values() for task in tasks):
        played = TASKS[task](split="train")
        prompts[task] = [played.start(item).opening for item in range(items)]
    texts = [prompt for several in prompts.values() for prompt in several]
    labels = [-1] * len(texts)
    for number, (cue, tasks) in enumerate(cues.items()):
        cued = [prompt + cue for task in tasks for prompt in prompts[task]]
        texts += cued
        labels += [number] * len(cued)
    places = []
    for start in range(0, len(texts), LANES):
        batch = tokenizer(texts[start : start + LANES], padding=True, padding_side="right", return_tensors="pt")
        last = batch.attention_mask.sum(1) - 1
        places.append(residuals(lm, batch.input_ids, layer)[torch.arange(len(last)), last])
    return torch.cat(places), torch.tensor(labels)


def _kind_oracle(table: np.ndarray, kinds: list[str]) -> float:
    """Mean score when each kind of item gets the feature that is best for it on the other half of the items.

    Args:
        table: ``[F, N]`` scores.
        kinds: ``[N]``; a kind of which one half has no item is left out.
    """
    named, half = np.array(kinds), np.arange(len(kinds)) % 2
    scores: list[float] = []
    for kind in dict.fromkeys(kinds):
        for part in (0, 1):
            seen, held = (named == kind) & (half != part), (named == kind) & (half == part)
            if seen.any() and held.any():
                scores += table[table[:, seen].mean(axis=1).argmax(), held].tolist()
    return float(np.mean(scores))
