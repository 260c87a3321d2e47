#!/usr/bin/env bash
# AutoSteer's shape (the board, strengths of the 30 most frequent features), PPO and SAC, five training seeds each.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
for algo in ppo sac; do
  steps=$([ "$algo" = ppo ] && echo 400000 || echo 80000)
  runs=()
  for seed in 0 1 2 3 4; do
    run=autosteer-$algo-$seed
    steer train --env AutoSteer-TicTacToe-v0 --algo "$algo" --seed "$seed" \
      --total-timesteps "$steps" --name "$run"
    steer evaluate --run "runs/$run" --items 1000
    runs+=("runs/$run")
  done
  steer summary --runs "${runs[@]}"
done
