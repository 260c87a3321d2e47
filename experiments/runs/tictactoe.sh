#!/usr/bin/env bash
# Tic-tac-toe, one feature a token: five training seeds, 1,000 games an arm, greedy; unsteered play sampled as well.
# With all features open and the observation that was the default when the table was made.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
runs=()
for seed in 0 1 2 3 4; do
  run=tictactoe-$seed
  steer train --name "$run" --seed "$seed" --total-timesteps 150000 --algo-kwargs n_steps=32 \
    --mask off --env-kwargs observation=normalized
  steer evaluate --run "runs/$run" --items 1000
  runs+=("runs/$run")
done
steer evaluate --run runs/tictactoe-0 --items 1000 --temperature 1
steer summary --runs "${runs[@]}"
