#!/usr/bin/env bash
# Speed on a GPU at the shapes of real models (random weights; nothing is downloaded), each over what the memory allows.
#   experiments/runs/gpu.sh RESULTS [MODEL ...]
# Without a GPU: DEVICE=cpu DTYPE=float32 BATCHES="2" TOKENS=8 ROUNDS=1 experiments/runs/gpu.sh RESULTS small-llama
set -euo pipefail
results=$(realpath -m "${1:?give the folder of results}")
shift
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
device=${DEVICE:-cuda} dtype=${DTYPE:-bfloat16} batches=${BATCHES:-1 64 256} tokens=${TOKENS:-128} rounds=${ROUNDS:-5}
models=${*:-gemma-2-2b llama-3.1-8b}
mkdir -p "$results"
[ "$device" = cpu ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/device.csv"
for model in $models; do
  # shellcheck disable=SC2086  # numbers
  steer benchmark floor loop --model "$model" --device "$device" --dtype "$dtype" \
    --batches $batches --new-tokens "$tokens" --rounds "$rounds" --out "$results/$model.json"
done
