#!/usr/bin/env bash
# The main job end to end: train one agent to hold a perfect tic-tac-toe player, compare it with its controls,
# find out which features did it, report.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
name=${1:-demo-$(date +%Y%m%d-%H%M%S)}
"$python" -m experiments.train --name "$name" --total-timesteps 150000
"$python" -m experiments.evaluate --run "runs/$name" --episodes 1000
"$python" -m experiments.check --run "runs/$name"
"$python" -m experiments.analyze --run "runs/$name" --episodes 200
"$python" -m experiments.report --run "runs/$name" > /dev/null
echo "run folder: runs/$name"
echo "report:     runs/$name/report.html"
