"""How far the refusal scorer agrees with people: ``steer refusal-agreement --data FOLDER``.

``FOLDER`` holds XSTest's labelled completions (``completions_*.jsonl``). Patterns were written while reading the
development half of the prompts only; the held-out half says what they are worth. The coherence score is tried on
the same completions, whole and spoilt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RefusalAgreementConfig:
    """Compare the refusal scorer with human labels, beside the published list of phrases."""

    data: Path
    """Folder with completions_*.jsonl."""
    words: int | None = None
    """Score only so many first words of each completion (an episode writes 32 tokens); by default all."""
    seed: int = 0
    """Seed of the spoilt texts."""


def main(cfg: RefusalAgreementConfig) -> dict[str, Any]:
    """Print and return what :func:`agents.compare.refusals.compare_with_people` finds.

    Raises:
        ValueError: The folder has no labelled completions.
    """
    from agents.compare.refusals import compare_with_people, print_agreement

    found = compare_with_people(cfg.data, cfg.words, cfg.seed)
    print_agreement(found["agreement"], found["coherence"])
    return found
