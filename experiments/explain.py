"""Labels for features, by the model itself: ``steer explain --model M --sae S --features 12 77``.

It writes ``explanations.json``, with every scale that was tried, and ``labels.jsonl``, which ``labels=`` of
``gym.make`` accepts; features that failed to explain themselves are not in the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.runs.folder import provenance, refuse_existing, to_json, write_json
from steer_env.lazy import torch
from steer_env.lm.loading import (
    load_language_model,
    load_sae,
    load_tokenizer,
    resolve_device,
    weights_sha256,
)
from steer_env.lm.presets import EMBEDDED
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.self_explanation import (
    Chance,
    Depths,
    Limits,
    Trials,
    ask,
    chosen_scales,
    default_depths,
    explain,
    random_similarity,
    residual_norm,
)

if TYPE_CHECKING:
    from torch import Tensor

LOCKED = EMBEDDED / "locked"


@dataclass(frozen=True)
class Prompt:
    """How the model is asked.

    Attributes:
        text: What it is asked; with a chat template, what the user says.
        begin: How its answer begins.
        placeholder: The word that is replaced.
        stops: Texts that end the answer.
    """

    text: str
    begin: str = ""
    placeholder: str = "X"
    stops: tuple[str, ...] = ('"', "\n")


PROMPTS = {
    "once": Prompt("Explain a word.\n", 'The word "X" means "'),
    "twice": Prompt('What does the word "X" mean?\n', 'The word "X" means "'),
    "repeated": Prompt('Write the word "X" four times.\n', '1. "X"\n2. "X"\n3. "X"\n4. "'),
    # The locked model answers no such questions; it obeys a word behind its own task's prompt.
    "locked": Prompt("Question: What is the trade of Vopun Lizesk?\nAnswer: some", "", "some", ("\n",)),
}


@dataclass(frozen=True)
class ExplainConfig:
    """Let a model say what features of an SAE mean."""

    features: tuple[int, ...]
    """SAE indices."""
    model: str = str(LOCKED)
    """Hub id or local folder; by default the embedded locked model."""
    sae: str = str(LOCKED / "sae_recall")
    """SAELens folder or 'release:sae_id'."""
    out: Path | None = None
    """Folder to make; by default runs/explain-<model>-<sae>."""
    prompt: str | None = None
    """'once', 'twice' or 'repeated', by how often the word stands there; 'locked'; or a text of your own. By default
    'twice', and for the embedded model its own."""
    begin: str = ""
    """How the answer to a prompt of your own begins."""
    placeholder: str = "X"
    """The word that is replaced in a prompt of your own; it must be one token."""
    chat: bool = False
    """Put the prompt into the tokenizer's chat template."""
    early: int | None = None
    """Block whose input is replaced; by default the ninth part of the way up."""
    late: int | None = None
    """Block whose output is compared with the direction; by default the last but one."""
    scales: tuple[float, ...] = tuple(step / 4 for step in range(1, 17))
    """Lengths of the direction, in norms of the residual that it replaces."""
    weight: float = 0.5
    """Of self-similarity against entropy in the choice of the scale; 1 is self-similarity alone."""
    controls: int = 64
    """Random directions; a feature whose self-similarity is not above that of 95% of them has failed."""
    text: Path | None = None
    """A .txt or .jsonl file, or a folder of them: do the labels fit what features are active on there?"""
    text_tokens: int = 20_000
    """Tokens of it that are read, at most."""
    max_new_tokens: int = 24
    """Tokens of an answer."""
    lanes: int = 512
    """Features times scales in one forward pass."""
    seed: int = 0
    """Of the random directions."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    threads: int = 1
    """CPU threads of PyTorch."""


def main(cfg: ExplainConfig) -> dict[str, Any]:
    """Explain the features, write both files and return the content of ``explanations.json``.

    Raises:
        FileExistsError: The folder is there.
        RuntimeError: The model's weights changed.
        SteeringError: Model, SAE or prompt cannot be used.
        ValueError: A number is out of its range.
    """
    torch.set_num_threads(cfg.threads)
    out = cfg.out or Path("runs") / f"explain-{Path(cfg.model).name}-{Path(cfg.sae).name}"
    refuse_existing(out)
    device = resolve_device(cfg.device)
    lm = load_language_model(cfg.model, cfg.dtype, device)
    dictionary = load_sae(cfg.sae, device)
    dictionary.check_fits(lm.config.get_text_config().hidden_size)
    features = _distinct(cfg.features, dictionary)
    _require_sound(cfg)
    before = weights_sha256(lm)
    record = _explained(cfg, lm, dictionary, features)
    record["fits"] = _fits(cfg, lm, dictionary, record["features"])
    if weights_sha256(lm) != before:
        raise RuntimeError("the language model's weights changed")
    record |= {"weights_sha256": before, **provenance()}
    out.mkdir(parents=True)
    write_json(out / "explanations.json", record)
    write_labels(record, out / "labels.jsonl")
    _print(record, out)
    return record


def write_labels(record: dict[str, Any], path: Path) -> None:
    """Write the labels as rows of ``index``, ``description`` and ``source``; no file where none was found.

    The source says so where the prompt did not allow to judge a label.
    """
    source = f"self-explanation of {record['model']}, prompt {record['prompt']['text'] + record['prompt']['begin']!r}"
    rows = [
        {
            "index": row["feature"],
            "description": row["label"],
            "source": f"{source}, scale {row['scale']:g}{', not judged' if row['failed'] is None else ''}",
        }
        for row in record["features"]
        if row["label"] and not row["failed"]
    ]
    if rows:
        path.write_text("".join(f"{to_json(row)}\n" for row in rows), encoding="utf-8")


def _explained(cfg: ExplainConfig, lm: Any, dictionary: FeatureDictionary, features: Sequence[int]) -> dict[str, Any]:
    words = load_tokenizer(cfg.model, cfg.chat)
    prompt = _prompt(cfg)
    question = ask(words, prompt.text, prompt.begin, prompt.placeholder, prompt.stops)
    default = default_depths(lm)
    early = default.early if cfg.early is None else cfg.early
    depths = Depths(early, max(early, default.late) if cfg.late is None else cfg.late)
    unit = residual_norm(lm, question, depths)
    scales = unit * torch.tensor(cfg.scales)
    rows, limits = dictionary.directions[list(features)], Limits(cfg.max_new_tokens, cfg.lanes)
    trials = explain(lm, words, question, depths, rows, scales, limits)
    least = None
    if question.judges:
        chance = Chance(cfg.controls, cfg.seed)
        least = random_similarity(lm, words, question, depths, scales, chance, cfg.lanes)
    return {
        **{name: getattr(cfg, name) for name in ("model", "sae", "scales", "weight", "controls", "seed", "dtype")},
        "prompt": asdict(prompt) | {"chat": cfg.chat, "placeholders": len(question.places)},
        **depths._asdict(),
        "residual_norm": unit,
        "random_similarity": least,
        "features": _rows(features, trials, chosen_scales(trials, cfg.weight), cfg.scales, least),
    }


def _fits(
    cfg: ExplainConfig, lm: Any, dictionary: FeatureDictionary, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How the labels, those of features that failed too, fit beside labels dealt out anew."""
    from steer_env.lm.label_fit import label_fits

    labels = {row["feature"]: row["label"] for row in rows}
    words = load_tokenizer(cfg.model)
    fits = label_fits(lm, words, dictionary, labels, cfg.text, cfg.text_tokens, cfg.seed)
    return {name: fit and asdict(fit) for name, fit in fits.items()}


def _rows(
    features: Sequence[int], trials: Trials, chosen: Tensor, scales: Sequence[float], least: float | None
) -> list[dict[str, Any]]:
    """One row a feature; ``failed`` is None where the prompt does not allow to tell."""
    similarities = trials.similarities.tolist()
    return [
        {
            "feature": feature,
            "label": trials.answers[i][place],
            "scale": scales[place],
            "similarity": similarities[i],
            "failed": None if least is None else similarities[i] <= least,
            "baseline": float(trials.baselines[i]),
            "cosines": trials.cosines[i].tolist(),
            "entropies": trials.entropies[i].tolist(),
            "answers": trials.answers[i],
        }
        for i, (feature, place) in enumerate(zip(features, chosen.tolist(), strict=True))
    ]


def _prompt(cfg: ExplainConfig) -> Prompt:
    name = cfg.prompt or ("locked" if Path(cfg.model) == LOCKED else "twice")
    return PROMPTS[name] if name in PROMPTS else Prompt(name, cfg.begin, cfg.placeholder)


def _distinct(features: Sequence[int], dictionary: FeatureDictionary) -> list[int]:
    outside = [feature for feature in features if not 0 <= feature < dictionary.width]
    if outside or not features:
        raise ValueError(f"a feature must be in [0, {dictionary.width}), got {outside[0] if outside else 'none'}")
    return list(dict.fromkeys(features))


def _require_sound(cfg: ExplainConfig) -> None:
    if not cfg.scales or any(not 0 < scale < float("inf") for scale in cfg.scales):
        raise ValueError(f"scales must be above 0 and finite, got {cfg.scales}")
    if list(cfg.scales) != sorted(set(cfg.scales)):
        raise ValueError(f"scales must ascend, got {cfg.scales}")
    if not 0 <= cfg.weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {cfg.weight}")
    for name in ("max_new_tokens", "lanes", "controls", "text_tokens"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cfg, name)}")


def _print(record: dict[str, Any], out: Path) -> None:
    for row in record["features"]:
        verdict = {None: "not judged", True: "failed", False: "ok"}[row["failed"]]
        print(f"{row['feature']}: {row['label']!r} at {row['scale']:g}, similarity {row['similarity']:.3f}, {verdict}")
    for name, fit in record["fits"].items():
        if fit is not None:
            print(
                f"labels and what {fit['features']} features {name}: its own label fits a feature better than "
                f"another's {fit['auc']:.0%} of the time, p {fit['p']:.2g}"
            )
    print(out)
