"""``python -m experiments.check --run runs/first``."""

import sys

import tyro

from agents.runs.checks import CheckConfig, main

if __name__ == "__main__":
    if any(result.verdict == "FAILED" for result in main(tyro.cli(CheckConfig)).values()):
        sys.exit(1)
