#!/usr/bin/env bash
# Every arm on every text task of the embedded model: five seeds each, about ten minutes a task on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
for env in ${1:-MMLU MMLUPro BBQ GSM8K HarmBench XSTest SimpleQA}; do
  "$python" -m experiments.evidence --env "Steer-$env-v0" --name "evidence-$env"
done
