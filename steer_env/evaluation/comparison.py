"""Policies side by side on the same items: scores, intervals and paired tests. Any policy will do.

>>> from steer_env.evaluation.play import Played
>>> def played(*scores):
...     return Played([{"item": item, "score": score} for item, score in enumerate(scores)], {})
>>> print(compare({"unsteered": played(0, 0, 0, 0, 1), "trained": [played(1, 1, 1, 0, 1), played(1, 1, 1, 1, 1)]}))
arm        n  score  95 %            corrected  broken  p        p (Holm)
unsteered  5  0.200  0.036 to 0.624
trained    5  0.900  0.000 to 1.000        3.5       0  2.5e-01  2.5e-01
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steer_env.evaluation.play import Played
from steer_env.evaluation.statistics import holm, mcnemar, runs_interval

RIGHT = 0.5
"""A score above this counts as right in paired tests."""


@dataclass(frozen=True)
class ComparedArm:
    """One arm of a comparison.

    Attributes:
        n: Number of items.
        score: Mean score over items and seeds.
        scores: Mean score of each seed.
        ci95: 95 % interval of ``score`` (:func:`steer_env.evaluation.statistics.runs_interval`).
        corrected: Items wrong in the reference arm and right in this one, mean over seeds.
        broken: Items right in the reference arm and wrong in this one, mean over seeds.
        p_mcnemar: Exact paired test against the reference arm, the largest p over seeds; None for that arm itself.
        p_holm: The same with Holm's correction over arms.
    """

    n: int
    score: float
    scores: list[float]
    ci95: tuple[float, float]
    corrected: int | float
    broken: int | float
    p_mcnemar: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``print`` shows it as a table.

    Attributes:
        reference: Name of the arm that the others are tested against.
        arms: Every arm by name, in the order given.
    """

    reference: str
    arms: dict[str, ComparedArm]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("arm", "n", "score", "95 %", "corrected", "broken", "p", "p (Holm)")]
        rows += [self._cells(name, arm) for name, arm in self.arms.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        numbers = (False, True, True, False, True, True, False, False)
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in rows
        )

    def _cells(self, name: str, arm: ComparedArm) -> tuple[str, ...]:
        low, high = arm.ci95
        plain = (name, str(arm.n), f"{arm.score:.3f}", f"{low:.3f} to {high:.3f}")
        if arm.p_mcnemar is None or arm.p_holm is None:
            return (*plain, "", "", "", "")
        return (*plain, f"{arm.corrected:g}", f"{arm.broken:g}", f"{arm.p_mcnemar:.1e}", f"{arm.p_holm:.1e}")


def compare(arms: Mapping[str, Played | Sequence[Played]], reference: str = "unsteered", seed: int = 0) -> Comparison:
    """Score every arm, and test each against the reference arm on the same items.

    Args:
        arms: What each policy played, by name; a list where it was trained with several seeds, one entry a seed. Where
            both arms have seeds, they are paired in order.
        reference: Name of the arm that the others are tested against.
        seed: Seed of the bootstrap over items, where scores are not 0 or 1.

    Raises:
        ValueError: There is no such arm, an arm is empty, or arms played other items than the reference (named).
    """
    several = {name: [played] if isinstance(played, Played) else list(played) for name, played in arms.items()}
    if reference not in several:
        raise ValueError(f"the reference arm {reference!r} is not among the arms: {', '.join(several)}")
    _require_same_items(several, reference)
    pairs = {name: _paired(several[reference], played) for name, played in several.items()}
    others = [name for name in several if name != reference]
    raw = {name: max(mcnemar(*changes(was, now)) for was, now in pairs[name]) for name in others}
    adjusted = holm(raw)
    return Comparison(
        reference,
        {
            name: _arm(played, [changes(was, now) for was, now in pairs[name]], raw.get(name), adjusted.get(name), seed)
            for name, played in several.items()
        },
    )


def changes(reference: Played, played: Played) -> tuple[int, int]:
    """Items that ``played`` corrected and broke: wrong in ``reference`` and right here, and the reverse."""
    was, now = reference.scores > RIGHT, played.scores > RIGHT
    return int((now & ~was).sum()), int((was & ~now).sum())


def mean(values: Sequence[float]) -> int | float:
    """The mean over seeds; of a single seed the value itself, so that a count stays a whole number."""
    return values[0] if len(values) == 1 else float(np.mean(values))


def _arm(
    played: Sequence[Played], changed: Sequence[tuple[int, int]], p: float | None, p_holm: float | None, seed: int
) -> ComparedArm:
    scores = [each.score for each in played]
    corrected, broken = zip(*changed, strict=True)
    return ComparedArm(
        n=len(played[0].episodes),
        score=float(np.mean(scores)),
        scores=scores,
        ci95=runs_interval([each.scores.tolist() for each in played], seed),
        corrected=mean(corrected),
        broken=mean(broken),
        p_mcnemar=p,
        p_holm=p_holm,
    )


def _paired(reference: Sequence[Played], played: Sequence[Played]) -> list[tuple[Played, Played]]:
    """Seed by seed; an arm without seeds stands beside every seed of the other."""
    count = max(len(reference), len(played))
    return [(reference[seed % len(reference)], played[seed % len(played)]) for seed in range(count)]


def _require_same_items(arms: Mapping[str, Sequence[Played]], reference: str) -> None:
    """Paired tests of different items would be wrong without a sign of it."""
    if not arms[reference]:
        raise ValueError(f"arm {reference!r} played nothing")
    wanted = _items(arms[reference][0])
    for name, several in arms.items():
        if not several:
            raise ValueError(f"arm {name!r} played nothing")
        for played in several:
            if _items(played) != wanted:
                raise ValueError(
                    f"arm {name!r} played other items than {reference!r} ({len(played.episodes)} and {len(wanted)} of "
                    "them): play every arm with the same list of items"
                )


def _items(played: Played) -> list[Any]:
    return [episode.get("item") for episode in played.episodes]
