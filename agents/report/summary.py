"""The first view of a report, as HTML: what was trained, what it is worth, and who chooses what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from inspect import getdoc
from typing import Any

import pandas as pd

train_and_test = str
from agents.compare.layers_table import COLUMNS, cells
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
            _section("What it is worth", _worth(files), pictures.get("scores", "")),
            _section("Learning", _needs(files, "metrics"), pictures.get("learning_curve", "")),
            _section("Who chooses what", _chosen(files)),
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
    of = "a benchmark's items" if result["benchmark"] else "not a benchmark: an embedded or replaced model"
    return (
        f"<p>{result['episodes']} items of split {escape(result['split'])} in every arm ({of}). "
        f"{escape(train_and_test(dict(result)))}.</p>{_arms(result)}"
        '<p class="note">Corrected and broken: items wrong unsteered and right in the arm, and the reverse. '
        f"Language model unchanged: <code>{escape(result['weights_sha256_after'][:16])}</code></p>"
    )


def _arms(result: Mapping[str, Any]) -> str:
    rows = []
    for name, arm in result["arms"].items():
        low, high = arm["ci95"]
        test = result["tests"].get(f"trained_vs_{name}")
        p_value = f"{test['p_holm']:.2g}" if test else ""
        counts = (arm["corrected"], arm["broken"], p_value)
        rows.append((_words(name), f"{arm['score']:.3f}", f"{low:.3f} to {high:.3f}", *map(str, counts)))
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
    order = [_words(name) for name in (files.result or {"arms": ()})["arms"]]
    rows.sort(key=lambda row: order.index(row[0]) if row[0] in order else len(order))
    return _table(("arm", "chooses", "features", "left alone", "most used"), rows, "chosen")


def _chooser(arm: str) -> str:
    if arm == "trained":
        return "The trained agent."
    return (getdoc(CONTROLS[arm]) or "").split("\n")[0] if arm in CONTROLS else ""


def _share(feature: int, label: object, share: float) -> str:
    return str(feature) + ("" if pd.isna(label) else f" “{label}”") + f" {share:.0%}"


def _layers(compared: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    text = f"<p>{escape(compared['env'])}, the same protocol at each layer. In brackets: of the whole dictionary.</p>"
    table = _table(COLUMNS, [cells(row) for row in compared["layers"]], "layers")
    return _section("Layers", text + table, pictures.get("layers", ""), pictures.get("layer_kinds", ""))


def _critic(files: RunFiles) -> str:
    critic = files.critic
    if critic is None:
        return _needs(files, "critic")
    said = [] if critic["target"] is None else [_calibrated(critic)]
    if critic["target"] is None:
        said.append("<p>The algorithm logs no values.</p>")
    if critic["failures"]:
        said.append(_failures(critic["failures"]))
    return "".join(said)


def _calibrated(critic: Mapping[str, Any]) -> str:
    whole, apart = critic["calibration"]["all_tokens"], critic["separation"]["last"]["right_from_wrong"]
    told = [f"bias {whole['bias']:+.3f}", f"mean absolute error {whole['mae']:.3f}"]
    if whole["r2"] is not None:
        told.append(f"explained variance {whole['r2']:.2f}")
    if apart is not None:
        told.append(f"tells right from wrong at the last token with AUC {apart:.2f}")
    return f"<p>Value against {escape(critic['target'])}: {', '.join(told)}. Bands are 10th to 90th percentile.</p>"


def _failures(failures: Mapping[str, Any]) -> str:
    kinds = ("searched", "policy", "critic", "both", "neither")
    rows = [(_words(name), *(str(found[kind]) for kind in kinds)) for name, found in failures["searches"].items()]
    meaning = "; ".join(f"{name}: {text}" for name, text in failures["definitions"].items())
    table = _table(("search", *kinds), rows, "failures")
    wrong = f"Episodes that ended wrong: {failures['wrong']}. Whose fault:"
    return f'<p>{wrong}</p>{table}<p class="note">{escape(meaning)}.</p>'


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
