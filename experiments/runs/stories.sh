#!/usr/bin/env bash
# Stories, the class that the opening speaks of: a model from outside and an SAE of `steer make-sae`, three seeds.
# The grid's four features are the best fixed ones for each class on items of train, of all 512 of that SAE.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
model=${1:?give the folder of a model of stories, such as babyllama}
sae=${2:?give the folder of its SAE}
steer evidence --env Steer-Stories-v0 --name "${3:-evidence-stories}" --seeds 3 --lora-steps 0 --jobs 1 \
  --env-kwargs "model=$model" "sae=$sae" goal=asked max_new_tokens=32 --grid experiments/grids/babyllama.json \
  --algo-kwargs gae_lambda=1.0 ent_coef=0.003 --total-timesteps "${TOKENS:-150000}" --num-envs 128 \
  --train-items 400 --items 288 --oracle-items 100 --runs-dir "${RUNS:-runs}"
