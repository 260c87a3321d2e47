#!/usr/bin/env bash
# Every arm on every task of the embedded models, five seeds each, and on 50 samples; then all of it in one table.
# The settings of learning were chosen on validation (policy.sh) and on train, each task's strength on validation; they
# are from before observations were standardised and features listed by effect, and stand here as they were measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }
runs_dir=${RUNS:-runs}
tasks=${*:-MMLU MMLUPro BBQ GSM8K HarmBench XSTest SimpleQA XSTest-50 TicTacToe}
options() {
  case $1 in
    MMLU | MMLUPro | BBQ) # one token an episode
      echo "--mask off --env-kwargs observation=normalized --total-timesteps 20000 --tuning-timesteps 8000" ;;
    GSM8K) # random choices are right once in fifty episodes: fewer features, steps that count, larger updates, more tokens
      echo "--screen 32 --env-kwargs reward=steps observation=normalized --num-envs 256 --algo-kwargs n_steps=32" \
        "--total-timesteps 600000 --tuning-timesteps 150000" ;;
    XSTest-50) # nothing but the 50 items: the strength is the model's own
      echo "--env-kwargs observation=prompted --screen 32 --train-items 50" \
        "--grid experiments/grids/defaults.json --total-timesteps 80000 --oracle-items 0" ;;
    TicTacToe) echo "--mask off --env-kwargs observation=normalized --total-timesteps 100000 --items 1000" ;;
    *) # sentences: steered at the bottom, where the last token tells little of what was asked
      echo "--env-kwargs observation=prompted --screen 32 --total-timesteps 80000 --tuning-timesteps 30000" ;;
  esac
}
runs=()
for task in $tasks; do
  # shellcheck disable=SC2046  # words
  steer evidence --env "Steer-${task%-50}-v0" --name "evidence-$task" --runs-dir "$runs_dir" $(options "$task")
  runs+=("$runs_dir/evidence-$task")
done
steer summary --runs "${runs[@]}"
