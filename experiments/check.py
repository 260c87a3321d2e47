"""Check a run against the faults that nobody sees."""

from typing import Any

from agents.runs.checks import CheckConfig


def main(cfg: CheckConfig) -> Any:
    """Run every check and return its results by name."""
    from agents.runs.checks import main as check

    return check(cfg)


def exit_code(results: Any) -> int:
    """1 where a check failed."""
    return int(any(result.verdict == "FAILED" for result in results.values()))
