#!/usr/bin/env bash
# The main job end to end: train one agent to hold a perfect tic-tac-toe player, compare it with its controls,
# find out which features did it, report.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
name=${1:-demo-$(date +%Y%m%d-%H%M%S)}
steer train --name "$name" --total-timesteps 150000
steer evaluate --run "runs/$name" --items 1000
steer check --run "runs/$name"
steer analyze --run "runs/$name" --items 200
steer report --run "runs/$name" > /dev/null
echo "run folder: runs/$name"
echo "report:     runs/$name/report.html"
