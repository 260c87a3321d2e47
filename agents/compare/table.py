"""An evidence run as people read it: a Markdown table and a picture of the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, GREY, BLUE = "#222222", "#9aa0a6", "#1a6fb5"


def markdown(result: dict[str, Any]) -> str:
    """The table of arms, and what stands beside it, from the content of ``evidence.json``."""
    arms, tests = result["arms"], result["tests"]
    trained, found = arms["trained"], result["item_oracle"]
    chosen = "chosen on validation" if len(result["tuning"]) > 1 else "given"
    screen = result["settings"]["screen"]
    screened = screen and f"The agent chooses among {screen} features, screened on train."
    lines = [
        f"# {result['env']}",
        "",
        f"{trained['n']} test items; {len(trained['scores'])} training seeds on {result['train_samples']} items; "
        f"{chosen}: `{result['chosen'] or 'the defaults'}`. {screened or ''}".rstrip(),
        "",
        "| arm | score | 95 % | corrected | broken | p against unsteered | coherence | features | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(name, row) for name, row in arms.items()),
        "",
        f"Trained on its own items of train: {trained['train_score']:.3f} (n = {trained['train_n']:.0f}); "
        f"{trained['seen_in_train']:.0%} of the test episodes went as one of those.",
    ]
    if trained["puppeteered"] is not None:
        lines.append(f"Corrected by features that write the answer themselves: {trained['puppeteered']:.0%}.")
    if found:
        lines.append(f"Item oracle (one feature an item, {found['items']} items): {found['score']:.3f}.")
    if result["readable"]:
        read = result["readable"]
        lines.append(
            f"A linear probe of the agent's first observation names the {read['topic']}: {read['accuracy']:.3f} "
            f"(the commonest: {read['chance']:.3f})."
        )
    lines += ["", "| trained against | difference | p |", "|---|---|---|"]
    lines += [f"| {name} | {test['difference']:+.3f} | {test['p_holm']:.1e} |" for name, test in tests.items()]
    lines += ["", "p: exact McNemar, the largest over seeds, Holm's correction over arms. 95 %: Wilson over items, and"]
    lines += ["where there are seeds Student's t over these if that is wider.", ""]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Scores with their intervals, an arm a line; dots are seeds."""
    arms = result["arms"]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.5, 0.42 * len(arms) + 1.3), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, row) in enumerate(reversed(arms.items())):
            color = BLUE if name.startswith("trained") else GREY
            axes.plot(row["ci95"], [place, place], color=color, linewidth=2, solid_capstyle="round", clip_on=False)
            axes.plot(row["score"], place, "o", color=color, markersize=7, clip_on=False)
            if len(row["scores"]) > 1:
                axes.plot(row["scores"], [place] * len(row["scores"]), "|", color=INK, markersize=7, clip_on=False)
            axes.annotate(f"{row['score']:.2f}", (1.04, place), va="center", color=INK, annotation_clip=False)
        if result["item_oracle"]:
            axes.axvline(result["item_oracle"]["score"], color=INK, linewidth=1, linestyle=":", label="item oracle")
            axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        axes.set_yticks(range(len(arms)), list(reversed(arms)))
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"score on {arms['trained']['n']} test items")
        axes.set_title(result["env"], loc="left")
        figure.savefig(path, dpi=150)


def _line(name: str, row: dict[str, Any]) -> str:
    p = f"{row['p_holm']:.1e}" if "p_holm" in row else ""
    low, high = row["ci95"]
    coherence = "" if row["coherence"] is None else f"{row['coherence']:.3f}"
    return (
        f"| {name} | {row['score']:.3f} | {low:.3f} to {high:.3f} | {row['corrected']:.0f} | {row['broken']:.0f} | {p} "
        f"| {coherence} | {row['distinct_features']:.0f} | {row['tokens']:,} | {row['wall_s']:.0f} |"
    )
