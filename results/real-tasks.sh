#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/real-tasks.csv: zero-shot tasks, the first ITEMS of each, of some files of results/real.csv beside full precision on the same items, by our engine; a row `greedy 32`:
# `changed` is the share of PROMPTS prompts of 32 tokens, spread over TEXT, whose next 32 tokens by greedy decoding are not those of full precision.
# usage: real-tasks.sh MODEL-F16.gguf DATA TEXT TABLE.csv METHOD=FILE.gguf...
# ITEMS (20), TASKS (arc_easy arc_challenge piqa winogrande openbook_qa copa lambada_openai boolq), PROMPTS (300; 0: none), MODEL, BITBUDGET. A row that is
# there is not made again.
set -euo pipefail
here=$(dirname "$0")
source=$1 data=$2 text=$3 table=$4
shift 4
: "${ITEMS:=20}" "${TASKS=arc_easy arc_challenge piqa winogrande openbook_qa copa lambada_openai boolq}" "${PROMPTS:=300}"
: "${BITBUDGET:=./bitbudget}" "${MODEL:=SmolLM2-135M}"
[ -s "$table" ] || echo "model,method,size_bytes,task,items,acc,acc_se,acc_norm,acc_norm_se,nll,nll_se,acc_full,acc_norm_full,nll_full,changed,acc_difference,acc_difference_se,acc_norm_difference,acc_norm_difference_se,nll_difference,nll_difference_se" > "$table"
json=$(mktemp)
trap 'rm -f "$json"' EXIT
figures="items acc acc_se acc_norm acc_norm_se gold_nll gold_nll_se reference.acc reference.acc_norm reference.gold_nll changed difference.acc difference.acc_se difference.acc_norm
 difference.acc_norm_se difference.gold_nll difference.gold_nll_se"
get=$(for f in $figures; do printf 'tasks.1.%s ' "$f"; done)
for pair in "$@"; do
    method=${pair%%=*} file=${pair#*=} bytes=$(stat -Lc %s "${pair#*=}")
    for task in $TASKS; do
        key="$MODEL,$method,$bytes,$task,"
        if grep -qF "$key" "$table"; then continue; fi
        "$BITBUDGET" eval "$file" --tasks "$data/tasks/llm-foundry/$task.jsonl" --limit "$ITEMS" --precision fast --reference "$source" --json -q > "$json"
        echo "$key$(awk -v get="$get" -f "$here/json.awk" "$json")" >> "$table"
    done
    key="$MODEL,$method,$bytes,greedy 32,"
    if [ "$PROMPTS" = 0 ] || grep -qF "$key" "$table"; then continue; fi
    "$BITBUDGET" eval "$file" --text "$text" --chunks 1 --generation --prompts "$PROMPTS" --prompt-tokens 32 --new-tokens 32 --precision fast --reference "$source" --json -q > "$json"
    awk -v get="generation.prompts generation.whole" -f "$here/json.awk" "$json" | awk -F, -v key="$key" '{ printf "%s%d,,,,,,,,,,%.6g,,,,,,\n", key, $1, 1 - $2 / $1 }' >> "$table"
done
