#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/real-greedy.csv: the share of held-out prompts of 32 tokens whose next 32 tokens by greedy decoding are not those of full precision, and the place of the first difference, of
# some files of results/real.csv, by our engine.
# usage: real-greedy.sh MODEL-F16.gguf TEXTS TABLE.csv METHOD=FILE.gguf...
#   TEXTS  the folder that real-texts.sh made
# PROMPTS (75) a text, DOMAINS (encyclopedia web dialogue code), MODEL, BITBUDGET. All files of a text in one go, so full precision writes once; a row that is there is not made again.
set -euo pipefail
source=$1 texts=$2 table=$3
shift 3
: "${PROMPTS:=75}" "${DOMAINS:=encyclopedia web dialogue code}" "${BITBUDGET:=./bitbudget}" "${MODEL:=SmolLM2-135M}"
[ -s "$table" ] || echo "model,method,size_bytes,text,prompts,prompt_tokens,new_tokens,different,different_se,first_difference,first_difference_se,same_tokens,same_tokens_se" > "$table"
for domain in $DOMAINS; do
    files=() methods=()
    for pair in "$@"; do
        file=${pair#*=}
        if grep -qF "$MODEL,${pair%%=*},$(stat -Lc %s "$file"),$domain,$PROMPTS," "$table"; then continue; fi
        files+=("$file") methods+=("${pair%%=*}")
    done
    [ ${#files[@]} -gt 0 ] || continue
    [ -s "$texts/$domain.u32" ] || "$BITBUDGET" tokenize "$source" --parse-special --text "$texts/$domain.txt" --out "$texts/$domain.u32" -q > /dev/null
    # A row of ours per file, in their order, as soon as it is known: file, bytes, text, figures.
    i=-1
    "$BITBUDGET" compare "$source" "${files[@]}" --greedy "$texts/$domain.u32" --prompts "$PROMPTS" --prompt-tokens 32 --new-tokens 32 --precision fast -q | while IFS= read -r row; do
        if [ $i -ge 0 ]; then
            row=${row#"${files[$i]},"}
            bytes=${row%%,*} row=${row#*,}
            echo "$MODEL,${methods[$i]},$bytes,$domain,${row#"$texts/$domain.u32,"}" >> "$table"
        fi
        i=$((i + 1))
    done
done
