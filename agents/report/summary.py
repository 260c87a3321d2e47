"""The first view of a report, as HTML: what was trained, what it is worth, and who chooses what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from inspect import getdoc

import pandas as pd

from agents.analysis.results import Critic, Failures
from agents.compare.layers_table import COLUMNS, cells
from agents.compare.results import Evaluation, Layers
from agents.inside.controller_report import as_html
from agents.report.files import RunFiles
from steer_env.evaluation.controls import CONTROLS

MOST_USED = 5


def facts(files: RunFiles) -> str:
    """What was trained, in one line under the title."""
    config = files.run.config
    said = [config.get("env"), config.get("algo"), f"seed {config.get('seed')}"]
    if config.get("total_timesteps"):
        said.append(f"{config['total_timesteps']:,} tokens of training")
    if "layer" in config.get("steering", {}):
        said.append(f"layer {config['steering']['layer']}, strength {config['steering']['coefficient']:.3g}")
    return "".join(f"<li>{escape(str(fact))}</li>" for fact in said if fact is not None)


def sections(files: RunFiles, pictures: Mapping[str, str]) -> str:
    """The view's sections, each with its plots or with the command that would make it."""
    return "".join(
        (
            _section("Result", _worth(files), pictures.get("scores", "")),
            _section("Learning", _needs(files, "metrics"), pictures.get("learning_curve", "")),
            _section("What each arm steers with", _chosen(files)),
            _section("The critic", _critic(files), pictures.get("critic_values", ""), pictures.get("calibration", "")),
            _inside(files, pictures),
            _section("Variants", "", pictures["variants"]) if "variants" in pictures else "",
            "" if files.layers is None else _layers(files.layers, pictures),
        )
    )


def _inside(files: RunFiles, pictures: Mapping[str, str]) -> str:
    """What the agent itself represents, where that was studied."""
    if files.controller is None:
        return ""
    return _section("What the agent represents", as_html(files.controller), pictures["controller"])


def _section(title: str, text: str, *pictures: str) -> str:
    drawn = "".join(f"<figure>{picture}</figure>" for picture in pictures if picture)
    figures = f'<div class="figures">{drawn}</div>' if drawn else ""
    return f'<section><h2>{title}</h2><div class="beside"><div>{text}</div>{figures}</div></section>'


def _needs(files: RunFiles, kind: str) -> str:
    command = files.missing.get(kind)
    return "" if command is None else f'<p class="missing">Nothing here yet: <code>{escape(command)}</code></p>'


def _worth(files: RunFiles) -> str:
    result = files.result
    if result is None:
        return _needs(files, "evaluation")
    of = "a benchmark's items" if result.benchmark else "not a benchmark: an embedded or replaced model"
    return (
        f'<p class="lead">{_lead(result)}</p><p>{_train_and_test(result)} Every arm plays the same '
        f"{result.episodes} items of split {escape(result.split)} ({of}).</p>{_arms(result)}"
        '<p class="note">Corrected and broken: items wrong unsteered and right in the arm, and the reverse. '
        "p: exact McNemar test of the trained agent against the arm on the same items, corrected for the number of "
        f"arms (Holm). Language model unchanged: <code>{escape(result.weights_sha256_after[:16])}</code></p>"
    )


def _lead(result: Evaluation) -> str:
    """The result in one sentence, for somebody who sees such a page for the first time."""
    arms = result.arms
    best = (
        f", {arms['best_fixed'].score:.3f} with the best single feature at every token" if "best_fixed" in arms else ""
    )
    return (
        "At every token the agent may add one feature of a sparse autoencoder to the frozen language model. On "
        f"{escape(result.split)} the score is {arms['unsteered'].score:.3f} unsteered{best}, and "
        f"<strong>{arms['trained'].score:.3f} with the agent</strong>."
    )


def _train_and_test(result: Evaluation) -> str:
    """How much of the result is memory: the same agent on the items that it was trained on."""
    arm = result.arms["trained"]
    if arm.train_score is None or arm.seen_in_train is None:
        return ""
    return (
        f"On {arm.train_n} items of train the agent scores {arm.train_score:.3f}, on these {arm.score:.3f}; "
        f"{arm.seen_in_train:.0%} of its episodes here are word for word one of those on train "
        f"({arm.distinct_completions} distinct completions)."
    )


def _arms(result: Evaluation) -> str:
    rows = []
    for name, arm in result.arms.items():
        low, high = arm.ci95
        test = result.tests.get(f"trained_vs_{name}")
        counts = (f"{arm.corrected:g}", f"{arm.broken:g}", f"{test.p_holm:.2g}" if test else "")
        rows.append((_words(name), f"{arm.score:.3f}", f"{low:.3f} to {high:.3f}", *counts))
    return _table(("arm", "score", "95 % interval", "corrected", "broken", "p against trained"), rows, "arms")


def _chosen(files: RunFiles) -> str:
    """Who chooses the feature in each arm, how many were used, and the most used ones."""
    if files.tokens is None:
        return _needs(files, "interventions")
    rows = []
    for arm, tokens in files.tokens.groupby("arm", sort=False):
        steered = tokens[tokens["feature"] >= 0]
        used = steered["feature"].value_counts()
        labels = dict(zip(steered["feature"], steered["label"], strict=True))
        top = "; ".join(_share(int(f), labels[f], n / len(tokens)) for f, n in used[:MOST_USED].items())
        idle = 1 - len(steered) / len(tokens)
        rows.append((_words(str(arm)), _chooser(str(arm)), str(len(used)), f"{idle:.0%}", top))
    order = [_words(name) for name in ({} if files.result is None else files.result.arms)]
    rows.sort(key=lambda row: order.index(row[0]) if row[0] in order else len(order))
    return _table(("arm", "chooses", "features", "not steered", "most used: label, share of tokens"), rows, "chosen")


def _chooser(arm: str) -> str:
    if arm == "trained":
        return "The trained agent."
    return (getdoc(CONTROLS[arm]) or "").split("\n")[0] if arm in CONTROLS else ""


def _share(feature: int, label: object, share: float) -> str:
    return str(feature) + ("" if pd.isna(label) else f" “{label}”") + f" {share:.0%}"


def _layers(compared: Layers, pictures: Mapping[str, str]) -> str:
    text = f"<p>{escape(compared.env)}, the same protocol at each layer. In brackets: of the whole dictionary.</p>"
    table = _table(COLUMNS, [cells(row) for row in compared.layers], "layers")
    return _section("Layers", text + table, pictures.get("layers", ""), pictures.get("layer_kinds", ""))


def _critic(files: RunFiles) -> str:
    critic = files.critic
    if critic is None:
        return _needs(files, "critic")
    text = "<p>The algorithm logs no values.</p>" if critic.target is None else _calibrated(critic)
    return text + ("" if critic.failures is None else _failures(critic.failures))


def _calibrated(critic: Critic) -> str:
    whole, apart = critic.calibration["all_tokens"], critic.separation["last"]["right_from_wrong"]
    measures = [f"bias {whole.bias:+.3f}", f"mean absolute error {whole.mae:.3f}"]
    if whole.r2 is not None:
        measures.append(f"explained variance {whole.r2:.2f}")
    if apart is not None:
        measures.append(f"tells right from wrong at the last token with AUC {apart:.2f}")
    return (
        f"<p>The critic's value of a token against the {escape(str(critic.target))}: {', '.join(measures)}. Bands are "
        "10th to 90th percentile.</p>"
    )


def _failures(failures: Failures) -> str:
    kinds = ("searched", "policy", "critic", "both", "neither")
    head = ("search over", "episodes", "policy", "critic", "both", "neither")
    rows = [(_words(name), *(_count(getattr(row, kind)) for kind in kinds)) for name, row in failures.searches.items()]
    meaning = "; ".join(f"{name}: {text}" for name, text in failures.definitions.items())
    table = _table(head, rows, "failures")
    why = f"Episodes that ended wrong: {failures.wrong}. What would have been better:"
    return f'<p>{why}</p>{table}<p class="note">{escape(meaning)}.</p>'


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table whose cells carry their column's name, for screens too narrow for columns."""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td data-column="{escape(h)}">{escape(c)}</td>' for h, c in zip(head, row, strict=True))
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'


def _words(name: str) -> str:
    return name.replace("_", " ")
