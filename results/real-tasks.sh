#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/real-tasks.csv: zero-shot tasks, the first ITEMS of each, of some files of results/real.csv beside full precision, by our engine. `changed`: share of the items
# that are answered differently.
# usage: real-tasks.sh MODEL-F16.gguf DATA WORK TABLE.csv [METHOD=FILE.gguf...]     without files: ours and llama.cpp's at 82.3 MB
# ITEMS (20), TASKS (arc_easy arc_challenge piqa winogrande openbook_qa copa lambada_openai boolq), MODEL, BITBUDGET
set -euo pipefail
source=$1 data=$2 work=$3 table=$4
shift 4
: "${ITEMS:=20}" "${TASKS:=arc_easy arc_challenge piqa winogrande openbook_qa copa lambada_openai boolq}" "${BITBUDGET:=./bitbudget}" "${MODEL:=SmolLM2-135M}"
if [ $# = 0 ]; then
    ours=$(tr -d '\r' < "$work/sweep/front.csv" | awk -F, 'NR > 1 && $1 != "-" && $2 <= 82333856 { best = $1 } END { print best }')
    set -- "llama.cpp IQ1_S=$work/judge/rivals/IQ1_S.gguf" "ours=$work/sweep/models/$ours.gguf"
fi
[ -s "$table" ] || echo "model,method,size_bytes,task,items,acc,acc_se,acc_norm,acc_norm_se,nll,nll_se,acc_full,acc_norm_full,nll_full,changed" > "$table"
for pair in "$@"; do
    method=${pair%%=*} file=${pair#*=} bytes=$(stat -Lc %s "${pair#*=}")
    for task in $TASKS; do
        key="$MODEL,$method,$bytes,$task,"
        if grep -qF "$key" "$table"; then continue; fi
        "$BITBUDGET" eval "$file" --tasks "$data/tasks/llm-foundry/$task.jsonl" --limit "$ITEMS" --precision fast --reference "$source" --json -q > "$work/json"
        awk -v key="$key" '
            { line = $0; gsub(/[" ,{]/, "", line); n = split(line, part, ":"); if (n < 2) next; k = part[1]; if (k == "reference" && part[2] == "") { inside = 1; next } }
            k == "items" || k ~ /^(acc|gold)/ || k == "changed" { v[(inside && k != "changed" ? "full_" : "") k] = part[2] == "null" ? "" : sprintf("%.6g", part[2]) }
            /^ *}/ { if (inside) inside = 0 }
            END { print key v["items"] "," v["acc"] "," v["acc_se"] "," v["acc_norm"] "," v["acc_norm_se"] "," v["gold_nll"] "," v["gold_nll_se"] "," v["full_acc"] "," v["full_acc_norm"] "," v["full_gold_nll"] "," v["changed"] }' "$work/json" >> "$table"
    done
done
