#!/usr/bin/env bash
# SmolLM2-135M-Instruct (or another real model) on every text task: block and strength on validation, every arm, sample sizes,
# layers, and prompts worded otherwise. Call it again after a kill: what is finished is skipped, what is begun goes on.
#   experiments/runs/smollm2.sh MODEL DATA RESULTS [TASK ...]
# MODEL: a GGUF file, a folder or a hub id. DATA: a folder with mmlu, mmlu_pro, bbq, xstest, harmbench_val, gsm8k,
# simpleqa in it. TASK: one of these names; by default all.
set -euo pipefail
model=$(realpath -e "${1:?give a model: a GGUF file, a folder or a hub id}" 2>/dev/null || echo "$1")
data=$(realpath -e "${2:?give the folder of the data}")
results=$(realpath -m "${3:?give the folder of results}")
shift 3
cd "$(dirname "$0")/../.."
steer() { "${PYTHON:-.venv/bin/python}" -m experiments "$@"; }

preset=${PRESET:-smollm2-135m-instruct}
seeds=${SEEDS:-3}
items=${ITEMS:-1000}               # of test, for every arm
tokens=${TOKENS:-20000}            # of each training, one token an episode
tokens_free=${TOKENS_FREE:-80000}  # the same where replies are sentences
tuning=${TUNING:-10000}            # of each training that only chooses block and strength, on validation
oracle=${ORACLE:-100}              # items on which every feature is tried
lora=${LORA:-200}                  # optimiser steps; 0 leaves fine-tuning out
blocks=${BLOCKS:-22 14 7}          # those of the preset's SAEs: which is steered is chosen on validation
layers=${LAYERS:-4 9 14 18 22 26}  # those that are compared, with SAEs of their own
coefficients=${COEFFICIENTS:-0.5 1.0 2.0}
games=${GAMES:-8 256}              # items of the search for the best fixed feature, in its two rounds
samples=${SAMPLES:-10 25 50 100}   # below the items of train, all of which come last (180 of XSTest's 450)
lanes=${LANES:-32}
jobs=${JOBS:-1}
tasks=${*:-bbq mmlu mmlu_pro xstest harmbench_val gsm8k simpleqa}

id() {
  case $1 in
    bbq) echo Steer-BBQ-v0 ;; mmlu) echo Steer-MMLU-v0 ;; mmlu_pro) echo Steer-MMLUPro-v0 ;;
    xstest) echo Steer-XSTest-v0 ;; harmbench_val) echo Steer-HarmBench-v0 ;; gsm8k) echo Steer-GSM8K-v0 ;;
    simpleqa) echo Steer-SimpleQA-v0 ;; *) echo "no such task: $1" >&2; exit 2 ;;
  esac
}
env_kwargs() { # of a task; the released MMLU test rows are divided, as auxiliary_train is from elsewhere
  echo "preset=$preset model=$model data=$data/$1"
  case $1 in
    mmlu) echo "splits=seeded" ;;
    xstest | harmbench_val | simpleqa) echo "observation=prompted" ;;
    gsm8k) echo "observation=prompted reward=steps" ;;
  esac
}
length() {
  case $1 in
    bbq | mmlu | mmlu_pro) echo "$tokens" ;;
    *) echo "$tokens_free" ;;
  esac
}
# step FILE COMMAND NAME ...: run a command whose result is FILE in its folder, unless that is there.
step() {
  local file=$1 command=$2 name=$3
  shift 3
  if [[ -f $results/$name/$file ]]; then
    echo "$name: done"
  elif [[ -d $results/$name ]]; then
    case $command in
      sweep | layers) # begun and not resumable: put aside
        mv "$results/$name" "$results/$name-left-$(date +%s)"
        run "$command" "$name" "$@" ;;
      *) run "$command" "$name" "$@" --resume ;;
    esac
  else
    run "$command" "$name" "$@"
  fi
}
run() {
  local command=$1 name=$2
  shift 2
  steer "$command" --name "$name" --runs-dir "$results" "$@"
}

# The blocks and strengths that are tried on validation, strengths in medians of the residual norm.
entries() {
  for block in $blocks; do
    for each in $coefficients; do
      printf '{"name": "block-%s-x%s", "env_kwargs": {"layer": %s, "coefficient": %s, "coefficient_unit": "norm"}},' \
        "$block" "$each" "$block" "$each"
    done
  done | sed 's/,$//'
}
# choose SWEEP GRID: the settings that were best on validation, as a grid of one point.
choose() {
  "${PYTHON:-.venv/bin/python}" - "$1" "$2" <<'EOF'
import json, sys
variants = json.load(open(sys.argv[1]))["variants"].values()
json.dump([max(variants, key=lambda row: row["score"])["flags"]["env_kwargs"]], open(sys.argv[2], "w"))
EOF
}

mkdir -p "$results"
echo "[$(entries)]" >"$results/choices.json"

for task in $tasks; do
  env=$(id "$task")
  # shellcheck disable=SC2046  # words
  set -- --env "$env" --seeds "$seeds" --num-envs "$lanes" --jobs "$jobs" \
    --env-kwargs $(env_kwargs "$task")
  step sweep.json sweep "$task-choice" "$@" --variants "$results/choices.json" --total-timesteps "$tuning" \
    --items "$items"
  choose "$results/$task-choice/sweep.json" "$results/$task-grid.json"
  # shellcheck disable=SC2086  # words
  step evidence.json evidence "$task" "$@" --grid "$results/$task-grid.json" --search-games $games \
    --total-timesteps "$(length "$task")" --items "$items" --oracle-items "$oracle" --lora-steps "$lora"
  case $task in
    xstest) # shellcheck disable=SC2086
      step samples.json sample-efficiency "$task-samples" "$@" --sizes $samples \
        --total-timesteps "$(length "$task")" --items "$items" --lora-steps "$lora" ;;
    bbq)
      trained=()
      for seed in $(seq 0 $((seeds - 1))); do trained+=("$results/$task/seed-$seed"); done
      # shellcheck disable=SC2086
      step transfer.json transfer "$task-transfer" --run "${trained[@]}" --items "$items" --num-envs "$lanes" \
        --search-games $games --lora-steps "$lora"
      # shellcheck disable=SC2086
      step layers.json layers "$task-layers" "$@" --layers $layers --coefficients $coefficients \
        --total-timesteps "$tokens" --items "$items" --oracle-items "$oracle" ;;
  esac
done
finished=()
for task in bbq mmlu mmlu_pro xstest harmbench_val gsm8k simpleqa; do
  if [[ -f $results/$task/evidence.json ]]; then finished+=("$results/$task"); fi
done
steer summary --runs "${finished[@]}"
