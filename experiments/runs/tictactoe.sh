#!/usr/bin/env bash
# Tic-tac-toe, one feature a token: five training seeds, 1,000 games an arm, greedy; unsteered play sampled as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
runs=()
for seed in 0 1 2 3 4; do
  run=tictactoe-$seed
  "$python" -m experiments.train --name "$run" --seed "$seed" --total-timesteps 150000 --algo-kwargs n_steps=32
  "$python" -m experiments.evaluate --run "runs/$run" --episodes 1000
  runs+=("runs/$run")
done
"$python" -m experiments.evaluate --run runs/tictactoe-0 --episodes 1000 --temperature 1
"$python" -m experiments.summary --runs "${runs[@]}"
