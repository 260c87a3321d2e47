"""Do better agents have more live features? Their SAEs, how many features fire, and the fits of score against number.

Linear and quadratic fits over agents, with permutation tests within lengths of training, the obvious common cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import Any, ClassVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from agents.inside.recordings import Activations, RolloutConfig, join, record
from agents.inside.saes import distinct_rows, split_rows
from agents.inside.worlds.agents import PLACES, AgentCard, WorldAgent, unit_of
from agents.report.markdown import markdown_table
from agents.runs.results import ResultFile
from steer_env.evaluation.statistics import holm
from steer_env.lm.sae_training import SAEConfig, sae_quality, train_sae

Floats = npt.NDArray[np.float64]
DEGREES = {"linear": 1, "quadratic": 2}
COUNTS = {"live": "its own held-out states", "live_on_same": "the same states for all"}
_LEVEL = 0.05


@dataclass(frozen=True)
class LiveFeaturesResult(ResultFile):
    """``live_features.json``.

    Attributes:
        env: World of the agents.
        states: On how many states of each agent features are counted.
        counts: By name of a count, the states on which it counts.
        agents: A row an agent: ``agent`` and ``training`` (folders), ``steps``, ``score``, the counts, and the quality
            of its SAE.
        relations: By name of a count what :func:`relation` found.
        config: Settings of the study.
        wall_s: Seconds that it took.
        cpu_s: Seconds of CPU that it took.
    """

    MADE_BY: ClassVar[str] = "steer live-features"

    env: str
    states: int
    counts: dict[str, str]
    agents: list[dict[str, Any]]
    relations: dict[str, dict[str, Any]]
    config: dict[str, Any]
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Decomposed:
    """An agent's SAE and the states that it has not seen.

    Attributes:
        row: What is written of it.
        sae: An SAE of SAELens.
        held_out: ``[n, M]`` activations of different states, in random order.
        observations: ``[n, ...]`` of the same states.
        read: From observations to activations of this agent.
    """

    row: dict[str, Any]
    sae: Any
    held_out: Tensor
    observations: npt.NDArray[Any]
    read: Activations


def find_agents(folders: Sequence[Path], score: str) -> dict[Path, AgentCard]:
    """The card of every agent in the folders or below.

    Raises:
        ValueError: There are fewer than four agents, they are of several worlds, or one's score is unknown.
    """
    places = sorted({path.parent for folder in folders for path in folder.rglob("agent.json")})
    cards = {folder: AgentCard.read(folder / "agent.json") for folder in places}
    if len(cards) < 4:
        raise ValueError(f"a quadratic fit needs at least 4 agents, got {len(cards)}")
    worlds = sorted({str((card.env, card.env_kwargs, card.hidden)) for card in cards.values()})
    if len(worlds) > 1:
        raise ValueError(f"agents must be of one world and one size, got {'; '.join(worlds)}")
    for folder, card in cards.items():
        if score not in card.evaluation:
            raise ValueError(f"the evaluation of {folder} has no {score!r}; it has: {', '.join(card.evaluation)}")
    return cards


def decompose(folder: Path, score: str, module: str | None, rollout: RolloutConfig, sae: SAEConfig) -> Decomposed:
    """Record an agent and train its SAE on half of what it visits.

    Args:
        folder: Folder of the agent.
        score: What of its evaluation is its score.
        module: Module to decompose; by default the last hidden layer before its non-linearity.
        rollout: What is played; its seed is also that of the split and the SAE.
        sae: The SAE and its schedule.
    """
    agent, card = WorldAgent.load(folder), AgentCard.read(folder / "agent.json")
    module = module or PLACES[agent.algorithm][0]
    recording = join(list(record(agent.model, agent.lanes(), [module], rollout)))
    learn = split_rows(recording, rollout.seed, unit_of(agent.env))
    held_out = np.random.default_rng(rollout.seed).permutation(distinct_rows(recording, learn)[1])
    acts = recording.activations[module]
    trained = train_sae(acts[learn], sae, {}, rollout.seed)
    row = {
        "agent": str(folder),
        "training": str(folder.parent if folder.name.startswith("steps-") else folder),
        "steps": card.steps,
        "score": card.evaluation[score],
    }
    read = Activations(agent.model.policy, [module])
    return Decomposed(row, trained, acts[held_out], recording.observations["obs"][held_out], read)


@torch.no_grad()
def count_live(found: Sequence[Decomposed], most: int) -> int:
    """Write ``live``, ``live_on_same`` and the SAE's quality into every row; returns on how many states.

    More states wake more features, so their number is the same for every agent: ``live`` counts on the agent's own
    held-out states, ``live_on_same`` on one set, drawn evenly from those of all agents, so that what an agent visits
    plays no part. In worlds of few states no SAE was trained on any of them.

    Args:
        found: The agents.
        most: Counts on at most this many states.
    """
    states = min(most, *(len(one.held_out) for one in found))
    shares = np.array_split(np.arange(states), len(found))
    same = {"obs": np.concatenate([one.observations[share] for one, share in zip(found, shares, strict=True)])}
    for one in found:
        own, other = one.held_out[:states], next(iter(one.read(same)[0].values()))
        quality, width = sae_quality(one.sae, own), one.sae.cfg.d_sae
        one.row["live"] = width - quality.pop("dead_features")
        one.row["live_on_same"] = width - sae_quality(one.sae, other)["dead_features"]
        one.row.update(quality)
    return states


def fit(counts: npt.ArrayLike, scores: npt.ArrayLike, degree: int) -> Floats:
    """Least squares: ``[degree + 1]`` coefficients, the highest power first."""
    x = np.asarray(counts, dtype=np.float64)
    shift, spread = x.mean(), x.std() or 1.0  # powers of large counts are ill-conditioned
    powers = np.vander((x - shift) / spread, degree + 1)
    inner = np.poly1d([1 / spread, -shift / spread])
    outer = np.poly1d(np.linalg.lstsq(powers, np.asarray(scores, dtype=np.float64), rcond=1e-9)[0])
    found: Floats = np.zeros(degree + 1)
    whole = np.atleast_1d(outer(inner).coeffs)  # shorter where the highest powers are zero
    found[-len(whole) :] = whole
    return found


def best_count(quadratic: Floats) -> float | None:
    """Where a quadratic fit is highest; None where it has no highest point."""
    bend, slope, _ = quadratic
    return float(-slope / (2 * bend)) if bend < 0 else None


def explained(counts: npt.ArrayLike, scores: npt.ArrayLike, degree: int, groups: Sequence[Any] | None = None) -> float:
    """R2 of a polynomial fit: of all there is, or of what groups do not explain.

    Args:
        counts: ``[n]``.
        scores: ``[n]``.
        degree: of the polynomial.
        groups: ``[n]`` what each row has in common with others, such as the length of its training. Every group then
            has a mean of its own, so that only differences inside groups count (the partial R2 of a regression with a
            dummy a group, by the theorem of Frisch, Waugh and Lovell).

    Returns:
        In [0, 1]; NaN where the scores do not vary.
    """
    x, y = np.asarray(counts, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    x = (x - x.mean()) / (x.std() or 1.0)
    design = centred(np.stack([x**power for power in range(1, degree + 1)], axis=1), groups)
    target = centred(y, groups)
    total = float(target @ target)
    if total < 1e-12 * max(float(y @ y), 1.0):
        return float("nan")
    left = target - design @ np.linalg.lstsq(design, target, rcond=1e-9)[0]
    return 1.0 - float(left @ left) / total


def correlation(counts: npt.ArrayLike, scores: npt.ArrayLike, groups: Sequence[Any] | None = None) -> float:
    """Pearson's r of all, or of what is left when the groups' means are taken away; NaN where a side is constant."""
    x, y = (centred(np.asarray(values, dtype=np.float64), groups) for values in (counts, scores))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 1e-12 else float("nan")


def chance(
    counts: npt.ArrayLike,
    scores: npt.ArrayLike,
    degree: int,
    groups: Sequence[Any] | None = None,
    trainings: Sequence[Any] | None = None,
    shuffles: int = 10_000,
    seed: int = 0,
) -> float:
    """How often shuffled scores are explained as well: permutation p-value, never 0.

    Args:
        counts: as in :func:`explained`.
        scores: as in :func:`explained`.
        degree: as in :func:`explained`.
        groups: as in :func:`explained`; scores are then shuffled inside groups.
        trainings: ``[n]`` of which training each row is. Rows of one are not independent: where every group has a row
            of every training, whole trainings are shuffled, the same way in all groups.
        shuffles: number of them.
        seed: of the shuffles.
    """
    y = np.asarray(scores, dtype=np.float64)
    value = explained(counts, y, degree, groups)
    if np.isnan(value):
        return 1.0
    rng = np.random.default_rng(seed)
    names = np.zeros(len(y)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    places = [np.flatnonzero(names == name) for name in np.unique(names)]
    table = None if trainings is None else _complete(places, np.asarray(trainings))
    as_good = 0
    for _ in range(shuffles):
        mixed = y.copy()
        if table is not None:
            mixed[table] = y[table[:, rng.permutation(table.shape[1])]]
        else:
            for place in places:
                mixed[place] = y[rng.permutation(place)]
        as_good += explained(counts, mixed, degree, groups) >= value - 1e-12
    return (1 + as_good) / (1 + shuffles)


def centred(values: Floats, groups: Sequence[Any] | None = None) -> Floats:
    """``[n]`` or ``[n, k]`` less the mean of each group, or of all."""
    if groups is None:
        return values - values.mean(axis=0)
    left, names = values.copy(), np.asarray(groups)
    for name in np.unique(names):
        left[names == name] -= values[names == name].mean(axis=0)
    return left


def relation(
    counts: npt.ArrayLike,
    scores: npt.ArrayLike,
    lengths: Sequence[Any],
    trainings: Sequence[Any],
    shuffles: int,
    seed: int,
) -> dict[str, Any]:
    """Everything about a score and a count.

    Args:
        counts: ``[n]``.
        scores: ``[n]``.
        lengths: ``[n]`` length of each agent's training.
        trainings: ``[n]`` of which training it is.
        shuffles: of the permutation tests.
        seed: of the permutation tests.

    Returns:
        ``r`` and ``r_within`` (what lengths explain taken away); by fit ``coefficients``, ``r2``, and ``r2_within`` and
        ``p_within`` inside lengths (over all lengths there is no p: agents of one training are no independent cases);
        ``best_count`` of the quadratic, None where that is outside the counts; ``by_length``, r and n of each.
    """
    x, y, names = np.asarray(counts, dtype=np.float64), np.asarray(scores, dtype=np.float64), np.asarray(lengths)
    fits = {
        name: {
            "coefficients": fit(x, y, degree).tolist(),
            "r2": explained(x, y, degree),
            "r2_within": explained(x, y, degree, lengths),
            "p_within": chance(x, y, degree, lengths, trainings, shuffles, seed),
        }
        for name, degree in DEGREES.items()
    }
    best = best_count(fit(x, y, 2))
    alone = {length: names == length for length in np.unique(names)}
    return {
        "r": correlation(x, y),
        "r_within": correlation(x, y, lengths),
        "fits": fits,
        "best_count": best if best is not None and x.min() <= best <= x.max() else None,
        "by_length": {
            str(length): {"n": int(rows.sum()), "r": correlation(x[rows], y[rows])} for length, rows in alone.items()
        },
    }


def correct(relations: Mapping[str, Any]) -> None:
    """Write into every fit ``p_holm``, its ``p_within`` after Holm's correction over all fits of all relations."""
    fits = {f"{name} {kind}": found for name, one in relations.items() for kind, found in one["fits"].items()}
    for name, p in holm({name: found["p_within"] for name, found in fits.items()}).items():
        fits[name]["p_holm"] = p


def relations_of(rows: Sequence[Mapping[str, Any]], shuffles: int, seed: int) -> dict[str, Any]:
    """:func:`relation` of the score and each count, corrected together.

    Args:
        rows: A row an agent.
        shuffles: Shuffles of the permutation tests.
        seed: Seed of the permutation tests.
    """
    lengths, trainings = [row["steps"] for row in rows], [row["training"] for row in rows]
    scores = [row["score"] for row in rows]
    relations = {
        name: relation([row[name] for row in rows], scores, lengths, trainings, shuffles, seed) for name in COUNTS
    }
    correct(relations)
    return relations


def as_markdown(result: LiveFeaturesResult) -> str:
    """The result of ``steer live-features`` as Markdown."""
    cfg, agents = result.config, result.agents
    lengths = sorted({row["steps"] for row in agents})
    trainings = len({row["training"] for row in agents})
    parts = [
        f"# Live features of agents of {result.env}",
        f"{len(agents)} agents of {trainings} trainings, {len(lengths)} lengths of training ({lengths[0]:,} to "
        f"{lengths[-1]:,} steps). On each a TopK SAE of {cfg['width']} features, k {cfg['k']}, {cfg['samples']:,} "
        f"samples; features that fire at least once on {result.states} held-out states. Score: {cfg['score']}. "
        f"p: share of {cfg['shuffles']:,} shuffles of the scores that are explained as well. *Within*: each length has "
        "a mean of its own, and scores are shuffled inside lengths: "
        + (
            f"whole trainings, so that p cannot be below {1 / factorial(trainings):.2g}."
            if len(agents) == trainings * len(lengths)
            else "agent by agent, since not every training has every length."
        )
        + " Holm's correction is over both fits and both ways of counting.",
    ]
    for name, relation in result.relations.items():
        parts += [f"## Counted on {result.counts[name]}", _fits(relation), _verdict(relation), _lengths(relation)]
    head = ["agent", "steps", "score", "live", "on the same states", "explained", "L0"]
    parts += ["## Agents", markdown_table(head, [_agent(row) for row in agents])]
    return "\n\n".join(parts) + "\n"


def draw(result: LiveFeaturesResult, path: Path) -> None:
    """Score against live features, all there is and within lengths; the colour is the length of training."""
    agents, relation = result.agents, result.relations["live"]
    steps, live, score = (np.array([row[name] for row in agents], dtype=float) for name in ("steps", "live", "score"))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        whole, within = figure.subplots(1, 2)
        shades = np.maximum(steps, 1)  # an untrained agent has no logarithm
        norm = LogNorm(shades.min(), max(shades.max(), shades.min() * 1.01))
        scale: dict[str, Any] = {"c": shades, "cmap": "viridis", "norm": norm}
        grid = np.linspace(live.min(), live.max(), 200)
        for name, style in (("linear", "--"), ("quadratic", "-")):
            found = relation["fits"][name]
            label = f"{name}: R² {found['r2']:.2f}"
            whole.plot(grid, np.polyval(found["coefficients"], grid), style, color="0.4", lw=1.2, label=label)
        points = whole.scatter(live, score, zorder=3, **scale)
        whole.set(xlabel="live features", ylabel=result.config["score"])
        within.scatter(centred(live, steps.tolist()), centred(score, steps.tolist()), **scale)
        linear = relation["fits"]["linear"]
        within.set_title(f"r {relation['r_within']:.2f}, p {linear['p_within']:.2g}", fontsize=9)
        within.set(xlabel="live features, less the mean at that length", ylabel="score, less the mean at that length")
        whole.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=8)
        for axes in (whole, within):
            axes.grid(alpha=0.25)
        figure.colorbar(points, ax=[whole, within], label="steps of training")
        figure.savefig(path, dpi=160)


def _fits(relation: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{found[column]:.3f}" for column in ("r2", "r2_within", "p_within", "p_holm"))]
        for name, found in relation["fits"].items()
    ]
    return markdown_table(["fit", "R2", "R2 within", "p within", "after Holm"], rows)


def _verdict(relation: Mapping[str, Any]) -> str:
    best, fits = relation["best_count"], relation["fits"]
    top = "has no highest point among these counts" if best is None else f"is highest at {best:.0f} live features"
    said = (
        "Score and count go together among agents of one length"
        if any(found["p_holm"] < _LEVEL for found in fits.values())
        else "That score and count go together among agents of one length is not shown"
    )
    return f"{said} (r {relation['r']:.2f}, within lengths {relation['r_within']:.2f}). The quadratic fit {top}."


def _lengths(relation: Mapping[str, Any]) -> str:
    rows = [[f"{int(length):,}", str(row["n"]), _number(row["r"])] for length, row in relation["by_length"].items()]
    return "Agents of one length:\n\n" + markdown_table(["steps", "agents", "r"], rows)


def _agent(row: Mapping[str, Any]) -> list[str]:
    numbers = [f"{row['steps']:,}", f"{row['score']:.3g}", str(row["live"]), str(row["live_on_same"])]
    return [row["agent"], *numbers, f"{row['explained_variance']:.3f}", f"{row['l0']:.1f}"]


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.2f}"


def _complete(places: Sequence[npt.NDArray[np.int64]], trainings: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """``[groups, trainings]`` rows, each group's in the order of trainings; None where one is missing or twice."""
    rows = [place[np.argsort(trainings[place], kind="stable")] for place in places]
    wanted = np.unique(trainings).tolist()
    return np.stack(rows) if all(trainings[row].tolist() == wanted for row in rows) else None
