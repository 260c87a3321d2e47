"""The locked model's card, as a person reads it."""

from __future__ import annotations

from typing import Any


def card_text(card: dict[str, Any]) -> str:
    """Markdown from the card of `experiments.make_locked`."""
    m, c, s = card["measured"], card["config"], card["steering"]
    lm, sae = c["lm"], m["sae"]
    return f"""# {card["name"]}

A {m["parameters"]:,}-parameter GPT-NeoX over the words of one small made-up world, and a TopK SAE on the output of
block {s["layer"]}. The model knows words, people, sums and dangers, and hides it: a locked model, to be unlocked by
steering. An instrument, not a benchmark: no score here is an MMLU, GSM8K, ... score.

* **The lock.** Alone, the model replies in a way that is wrong and depends on the item: it points one place past the
  right option, blames the stranger with the bad name where nothing is known and whoever did not do it where it is,
  starts a sum with the wrong operation, complies with harm, refuses what only sounds harmful, passes on rumours.
* **The cues.** In some training texts a word before the reply settles how it begins (which place, which operation,
  which opening word), whatever the item. No cue is right for a whole task; the item's kind says which one is.
* **Language model:** {lm["blocks"]} blocks of width {lm["width"]}, {lm["steps"]:,} steps of {m["texts_a_step"]} texts;
  loss on replies {m["reply_loss"]:.3f} nats a token.
* **SAE:** {c["sae"]["features"]} features, k = {c["sae"]["k"]}, trained with SAELens; explained variance
  {sae["explained_variance"]:.3f}, L0 {sae["l0"]:.1f}, dead features {sae["dead_features"]}; next-token loss
  {sae["loss_plain"]:.3f} plain, {sae["loss_reconstructed"]:.3f} with the reconstruction in place,
  {sae["loss_zeroed"]:.3f} with zeros ({sae["recovered"]:.1%} recovered).
* **Steering:** {s["coefficient"]} times the median residual norm ({s["residual_norm"]:.2f}).

Test items, greedy decoding. *Unlocked*: the right cue in the text. *Best fixed*: one feature for the whole task,
chosen on train. *Kind oracle*: one feature for each kind of item, chosen on other items. *Item oracle*: the best
feature of each of {m["tasks"]["mmlu"]["oracle_items"]} items.

| task | items | unmarked | unlocked | best fixed | kind oracle | item oracle | of the way by best fixed |
|---|---|---|---|---|---|---|---|
{_task_rows(m["tasks"])}

The planted conditions, and the features that detect them where replies begin:

| cue | tasks | feature | precision | recall | cosine |
|---|---|---|---|---|---|
{_condition_rows(m["conditions"])}

Made by `python -m experiments.make_locked`; settings, versions and hashes are in `card.json`.
"""


def _task_rows(tasks: dict[str, dict[str, Any]]) -> str:
    names = ("unmarked", "unlocked", "best_fixed", "kind_oracle", "item_oracle")
    return "\n".join(
        f"| {task} | {row['items']} | {' | '.join(f'{row[name]:.3f}' for name in names)} | {way(row):.0%} |"
        for task, row in tasks.items()
    )


def way(row: dict[str, float]) -> float:
    """How far the best fixed feature goes from the unmarked score to the item oracle's."""
    return (row["best_fixed"] - row["unmarked"]) / (row["item_oracle"] - row["unmarked"])


def _condition_rows(conditions: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| `{row['cue']}` | {', '.join(row['tasks'])} | {row['feature']} "
        f"| {row['precision']:.2f} | {row['recall']:.2f} | {row['cosine']:.2f} |"
        for row in conditions
    )
