#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/real-tasks.csv: zero-shot tasks, the first ITEMS of each, of some files of results/real.csv beside full precision on the same items, by our engine.
# usage: real-tasks.sh MODEL-F16.gguf DATA TABLE.csv METHOD=FILE.gguf...
# ITEMS (200), TASKS (arc_easy arc_challenge hellaswag piqa winogrande openbook_qa copa lambada_openai boolq), MODEL, BITBUDGET. All files of a task in one go, so full precision answers
# once; a row that is there is not made again.
set -euo pipefail
source=$1 data=$2 table=$3
shift 3
: "${ITEMS:=200}" "${TASKS:=arc_easy arc_challenge hellaswag piqa winogrande openbook_qa copa lambada_openai boolq}" "${BITBUDGET:=./bitbudget}" "${MODEL:=SmolLM2-135M}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -s "$table" ] || echo "model,method,size_bytes,task,items,acc,acc_se,acc_norm,acc_norm_se,nll,nll_se,acc_full,acc_norm_full,nll_full,changed,acc_difference,acc_difference_se,acc_norm_difference,acc_norm_difference_se,nll_difference,nll_difference_se" > "$table"
for task in $TASKS; do
    if [ "$task" = hellaswag ]; then
        items=$work/hellaswag.txt
        bunzip2 -c "$data/tasks/hellaswag/hellaswag_val_full.txt.bz2" > "$items"
        all=$(($(wc -l < "$items") / 6))
    else
        items=$data/tasks/llm-foundry/$task.jsonl
        all=$(wc -l < "$items")
    fi
    n=$((ITEMS < all ? ITEMS : all))
    files=() methods=()
    for pair in "$@"; do
        file=${pair#*=}
        if grep -qF "$MODEL,${pair%%=*},$(stat -Lc %s "$file"),$task,$n," "$table"; then continue; fi
        files+=("$file") methods+=("${pair%%=*}")
    done
    [ ${#files[@]} -gt 0 ] || continue
    # A row of ours per file, in their order, as soon as it is known: its first column is the file, of which the method takes the place.
    i=-1
    "$BITBUDGET" compare "$source" "${files[@]}" --tasks "$items" --limit "$n" --precision fast -q | while IFS= read -r row; do
        [ $i -lt 0 ] || echo "$MODEL,${methods[$i]},${row#"${files[$i]},"}" >> "$table"
        i=$((i + 1))
    done
done
