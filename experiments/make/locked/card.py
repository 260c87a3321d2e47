"""The locked model's card, as a person reads it."""

from __future__ import annotations

import math
from typing import Any


def card_text(card: dict[str, Any]) -> str:
    """Markdown from the card of ``steer make-locked``."""
    m, c = card["measured"], card["config"]
    lm = c["lm"]
    talking, other = lm["over_layers"][:2]
    return f"""# {card["name"]}

A {m["parameters"]:,}-parameter GPT-NeoX over the words of one small made-up world, and a TopK SAE for each of four
groups of tasks. The model knows words, people, sums and dangers, and hides it: a locked model, to be unlocked by
steering. An instrument, not a benchmark: no score here is an MMLU, GSM8K, ... score.

* **The lock.** Alone, the model replies in a way that is wrong and depends on the item: it points one place past the
  right option, blames the stranger with the bad name where nothing is known and whoever did not do it where it is,
  starts a sum with the wrong operation, complies with harm, refuses what only sounds harmful, passes on rumours.
* **The cues.** In some training texts a word before the reply settles how it begins (which place, which operation,
  which opening word), whatever the item. No cue is right for a whole task; the item's kind says which one is. In the
  last steps half of the cues are not written but spoken over the reply: the direction of the word is added to the
  residual at every token, at the output of block {talking} where replies are sentences, of block {other} elsewhere.
  So this model has been trained to bear steering; others have not.
* **Language model:** {lm["blocks"]} blocks of width {lm["width"]}, {lm["steps"]:,} + {lm["over_steps"]:,} steps of
  {m["texts_a_step"]} texts; loss on replies {m["reply_loss"]:.3f} nats a token.

{_measured(card)}"""


def _measured(card: dict[str, Any]) -> str:
    """The tables."""
    m, c = card["measured"], card["config"]
    return f"""Test items, greedy decoding. *Unlocked*: the right cue in the text (of sums, those of one step).
*Best fixed*: one feature for the whole task, chosen on train. *Kind oracle*: one feature for each kind of item, chosen
on other items. *Item oracle*: the best feature of each item. Where the oracle is high and *unlocked* is not, the model
has not learned the answers well, and the oracle finds features that write them.

| task | items | unmarked | unlocked | best fixed | kind oracle | item oracle | of the way by best fixed |
|---|---|---|---|---|---|---|---|
{_task_rows(m["tasks"])}

SAEs of {c["sae"]["features"]} features, k = {c["sae"]["k"]}, trained with SAELens, one for each group of tasks.
Next-token loss in nats: plain, with the reconstruction in the residual's place, with zeros there. Strength: in medians
of the residual norm.

| tasks | output of block | explained variance | L0 | dead | plain | reconstructed | zeros | recovered | strength |
|---|---|---|---|---|---|---|---|---|---|
{_sae_rows(card)}

The planted conditions, and the features that detect them where replies begin:

| cue | tasks | feature | precision | recall | cosine |
|---|---|---|---|---|---|
{_condition_rows([row for sae in m["saes"].values() for row in sae["conditions"]])}

Made by `steer make-locked`; settings, versions and hashes are in `card.json`.
"""


def _task_rows(tasks: dict[str, dict[str, Any]]) -> str:
    names = ("unmarked", "unlocked", "best_fixed", "kind_oracle", "item_oracle")
    return "\n".join(
        f"| {task} | {row['items']} | {' | '.join(f'{row[name]:.3f}' for name in names)} | {way(row):.0%} |"
        for task, row in tasks.items()
    )


def way(row: dict[str, float]) -> float:
    """How far the best fixed feature goes from the unmarked score to the item oracle's; NaN where there is no way."""
    whole = row["item_oracle"] - row["unmarked"]
    return (row["best_fixed"] - row["unmarked"]) / whole if whole else math.nan


def _sae_rows(card: dict[str, Any]) -> str:
    rows, features = [], card["config"]["sae"]["features"]
    for name, sae in card["measured"]["saes"].items():
        tasks = card["config"][name]["tasks"]
        how = card["steering"][tasks[0]]
        losses = " | ".join(f"{sae[loss]:.3f}" for loss in ("loss_plain", "loss_reconstructed", "loss_zeroed"))
        rows.append(
            f"| {', '.join(tasks)} | {how['layer']} | {sae['explained_variance']:.3f} | {sae['l0']:.1f} "
            f"| {sae['dead_features'] / features:.1%} | {losses} | {sae['recovered']:.1%} "
            f"| {how['coefficient']} x {how['residual_norm']:.2f} |"
        )
    return "\n".join(rows)


def _condition_rows(conditions: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| `{row['cue']}` | {', '.join(row['tasks'])} | {row['feature']} "
        f"| {row['precision']:.2f} | {row['recall']:.2f} | {row['cosine']:.2f} |"
        for row in conditions
    )
