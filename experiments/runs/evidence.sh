#!/usr/bin/env bash
# Every arm on every text task of the embedded model, five seeds each; then all of it in one table.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
tasks=${*:-MMLU MMLUPro BBQ GSM8K HarmBench XSTest SimpleQA}
declare -A tokens=([MMLU]=30000 [MMLUPro]=30000 [BBQ]=30000)  # one token an episode
for task in $tasks; do
  total=${tokens[$task]:-100000}
  "$python" -m experiments.evidence --env "Steer-$task-v0" --name "evidence-$task" \
    --total-timesteps "$total" --tuning-timesteps "$((total / 3))"
done
# shellcheck disable=SC2086  # one folder a task
"$python" -m experiments.evidence_summary --runs $(printf "runs/evidence-%s " $tasks)
