#!/usr/bin/env bash
# What the policy, its learning and its masks should be, by kind of task: variants side by side, scored on validation.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
sweep() { steer sweep --env "Steer-$1-v0" --name "sweep-$1" --variants "experiments/grids/$2.json" "${@:3}"; }
sweep MMLU policy --total-timesteps 8000
sweep XSTest sentences --seeds 2 --screen 32 --total-timesteps 100000
sweep GSM8K steps --seeds 2 --screen 32 --env-kwargs reward=steps --num-envs 256 --total-timesteps 300000
sweep SimpleQA recall --seeds 1 --screen 32 --total-timesteps 60000
sweep TicTacToe policy --seeds 2 --total-timesteps 40000
