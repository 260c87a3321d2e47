"""A page that explains one evaluated run: ``python -m experiments.report --run runs/first`` writes ``report.html``.

It needs no other file and no network; all text is escaped, since a model may write anything.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.evaluation_table import train_and_test
from experiments.run_folder import RunFolder, read_json

SHOWN_EPISODES = 10
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; text-align: right }
th { border-bottom: 1px solid #888 } th:first-child, td:first-child { text-align: left }
mark { background: #ffe9a8; padding: 0 .15rem } .good { color: #176d2c } .bad { color: #a3231f } img { max-width: 100% }
small { color: #666 }
"""


@dataclass(frozen=True)
class ReportConfig:
    """Write a run's report."""

    run: Path
    """Run folder, evaluated."""


def main(cfg: ReportConfig) -> Path:
    """Write ``report.html`` and ``figures/learning_curve.png``, and return the former.

    Raises:
        FileNotFoundError: The run is not evaluated.
    """
    run = RunFolder.open(cfg.run)
    if not (cfg.run / "evaluation.json").is_file():
        raise FileNotFoundError(f"{cfg.run} is not evaluated: python -m experiments.evaluate --run {cfg.run}")
    result = read_json(cfg.run / "evaluation.json")
    tokens = pd.read_parquet(cfg.run / "interventions.parquet", filters=[("arm", "in", ["trained", "unsteered"])])
    figure = learning_curve(list(run.rows("metrics")), result, cfg.run / "figures" / "learning_curve.png")
    page = cfg.run / "report.html"
    page.write_text(_page(run, result, tokens, figure), encoding="utf-8")
    return page


def learning_curve(rows: Sequence[dict[str, Any]], result: dict[str, Any], path: Path) -> Path:
    """Rolling training score over time steps, with the reported scores of three arms as lines."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    scored = [row for row in rows if row["score"] is not None]
    axes.plot([row["num_timesteps"] for row in scored], [row["score"] for row in scored], label="training (sampled)")
    for arm, style in (("trained", "-"), ("best_fixed", "--"), ("unsteered", ":")):
        axes.axhline(result["arms"][arm]["score"], color="black", linestyle=style, linewidth=1, label=arm)
    axes.set(xlabel="time steps (tokens)", ylabel="score", ylim=(-0.02, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _page(run: RunFolder, result: dict[str, Any], tokens: pd.DataFrame, figure: Path) -> str:
    name = escape(run.path.name)
    picture = base64.b64encode(figure.read_bytes()).decode()
    of = "a benchmark's items" if result["benchmark"] else "not a benchmark: an embedded or replaced model"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>
<h1>{name}</h1>
<p>{escape(result["env"])}, {escape(run.config["algo"])}, seed {run.config["seed"]};
{result["episodes"]} items of split {escape(result["split"])} in every arm ({of}).
{escape(train_and_test(result))}.
Language model unchanged: <small>sha256 {escape(result["weights_sha256_after"])}</small></p>
{_arms(result)}
<h2>Learning</h2><img alt="learning curve" src="data:image/png;base64,{picture}">
<h2>Steered episodes</h2><p>Steered tokens are marked. Each line: token, feature and its label, and the token of the
unsteered model where that differs.</p>
{_episodes(tokens)}</html>
"""


def _arms(result: dict[str, Any]) -> str:
    rows = [("arm", "score", "95 % interval", "corrected", "broken", "p (McNemar, Holm)", "distinct features")]
    for name, arm in result["arms"].items():
        low, high = arm["ci95"]
        test = result["tests"].get(f"trained_vs_{name}")
        p_value = f"{test['p_holm']:.2g}" if test else ""
        counts = (arm["corrected"], arm["broken"], p_value, arm["distinct_features"])
        rows.append((name, f"{arm['score']:.3f}", f"{low:.3f} to {high:.3f}", *map(str, counts)))
    head, *body = (_cells(row, "th" if number == 0 else "td") for number, row in enumerate(rows))
    return f"<table>{head}{''.join(body)}</table><p><small>Corrected and broken: against unsteered.</small></p>"


def _cells(row: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"


def _episodes(tokens: pd.DataFrame) -> str:
    """The first episodes of the trained arm, those that it turned from wrong to right first."""
    scores = tokens.groupby(["arm", "episode"])["score"].first()
    gain = scores["trained"] - scores["unsteered"]
    shown = gain.sort_values(ascending=False, kind="stable").index[:SHOWN_EPISODES]
    trained = tokens[tokens["arm"] == "trained"]
    return "".join(_episode(trained[trained["episode"] == number], scores["unsteered"][number]) for number in shown)


def _episode(rows: pd.DataFrame, unsteered: float) -> str:
    score = rows["score"].iloc[0]
    tone = "good" if score > unsteered else "bad" if score < unsteered else ""
    lines = "".join(_token(row) for row in rows.to_dict("records"))
    title = f"Item {rows['item'].iloc[0]}: score {score:g}, unsteered {unsteered:g}"
    return f'<h3 class="{tone}">{title}</h3><ul>{lines}</ul>'


def _token(row: dict[str, Any]) -> str:
    text = escape(str(row["token_text"])) or "(no text)"
    if row["feature"] < 0:
        return f"<li>{text} <small>not steered</small></li>"
    what = f"feature {row['feature']} at {row['coefficient']:.2f}: {escape(str(row['label']))}"
    other = f"; unsteered: {escape(str(row['unsteered_token_text'])) or '(no text)'}" if row["changed"] is True else ""
    return f"<li><mark>{text}</mark> <small>{what}{other}</small></li>"


if __name__ == "__main__":
    print(main(tyro.cli(ReportConfig)))
