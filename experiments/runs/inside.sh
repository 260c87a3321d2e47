#!/usr/bin/env bash
# What is inside RL agents: SAEs, live features and value probes, three seeds each or more. Hours on one core.
# The last part looks into the tic-tac-toe agents of evidence.sh, where they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
runs=${RUNS:-runs}
export OMP_NUM_THREADS=1

steer make-agents --env KingRookKing-v0 --seeds 0 1 2 3 4 5 --saves 25000 50000 100000 200000 \
  --out "$runs/agents/krk"
steer live-features --agents "$runs/agents/krk" --out "$runs/live-features"
steer rl-sae --agent "$runs/agents/krk/seed-0" --sae-seeds 0 1 2 --out "$runs/sae-krk-0"
for seed in 1 2; do
  steer rl-sae --agent "$runs/agents/krk/seed-$seed" --widths 1024 --ks 10 40 80 --jumprelu-ks 20 \
    --penalties 1 --out "$runs/sae-krk-$seed"
done

for env in CartPole-v1 MinAtarBreakout-v0; do
  steer make-agents --env "$env" --seeds 0 1 2 --out "$runs/agents/$env"
  for seed in 0 1 2; do
    steer rl-sae --agent "$runs/agents/$env/seed-$seed" --widths 256 --ks 5 10 20 --jumprelu-ks 10 \
      --penalties 1 --samples 300000 --out "$runs/sae-$env-$seed"
  done
  steer value-probe --agents "$runs/agents/$env"/seed-{0,1,2} --out "$runs/values-$env"
done

steer value-probe --env FrozenLake-v1 --out "$runs/values-lake"
steer value-probe --env GridWorld-v0 --env-kwargs layout '"obstacles"' --out "$runs/values-obstacles"
steer value-probe --env TicTacToeDuel-v0 --losses td returns variance+10*dominance ccs ccs+10*dominance \
  --out "$runs/values-duel"

for run in "$runs"/evidence-TicTacToe/seed-*; do
  if [ -d "$run" ]; then
    steer controller --run "$run" --blunder 0.3
  fi
done
steer inside-summary --saes "$runs"/sae-*
if compgen -G "$runs/evidence-TicTacToe/seed-*/controller.json" > /dev/null; then
  steer inside-summary --controllers "$runs"/evidence-TicTacToe/seed-*
fi
