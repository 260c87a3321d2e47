"""Check a run against the faults that nobody sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.runs.checks import Checks


@dataclass(frozen=True)
class CheckConfig:
    """Check a run."""

    run: Path
    """Run folder."""
    items: int = 8
    """Number of episodes played, and replayed of each arm of an evaluation."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: CheckConfig) -> Checks:
    """Run every check, write ``check.json`` and return its content."""
    import torch

    from agents.runs.checks import check_run

    torch.set_num_threads(cfg.threads)
    return check_run(cfg.run, cfg.items)


def exit_code(found: Checks) -> int:
    """1 where a check failed."""
    return int(any(result.verdict == "FAILED" for result in found.checks.values()))
