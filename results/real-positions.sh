#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/real-positions.csv: files of a pretrained model by the place in the window, and the errors of their KL when the tokens of a document go together, by our engine (`bitbudget eval --detail`).
# For each file, text and context one row for all scored positions, with quantiles and the bootstrap, and eight for spans of them.
# usage: real-positions.sh MODEL-F16.gguf TEXTS TABLE.csv METHOD=FILE.gguf...      TEXTS: the folder that real-texts.sh made
# DOMAINS (encyclopedia web dialogue code), WINDOWS (512:8 2048:2): CTX:CHUNKS, spread over the text; MODEL, BITBUDGET. A row that is there is not made again.
set -euo pipefail
here=$(dirname "$0") source=$1 texts=$2 table=$3
shift 3
: "${DOMAINS:=encyclopedia web dialogue code}" "${WINDOWS:=512:8 2048:2}" "${BITBUDGET:=./bitbudget}" "${MODEL:=SmolLM2-135M}"
[ -s "$table" ] || echo "model,method,size_bytes,text,ctx,chunks,first,last,tokens,ppl,ppl_full,kl_nats,kl_se,top1,kl_p90,kl_p99,kl_p999,blocks,rule,kl_se_blocks,kl_low,kl_high" > "$table"
json=$(mktemp)
trap 'rm -f "$json"' EXIT
spans=$(for i in 1 2 3 4 5 6 7 8; do for f in first last tokens ppl ppl_reference kl_nats kl_se top1; do printf 'detail.positions.%d.%s ' $i $f; done; done)
for pair in "$@"; do
    file=${pair#*=}
    for domain in $DOMAINS; do
        for w in $WINDOWS; do
            key="$MODEL,${pair%%=*},$(stat -Lc %s "$file"),$domain,${w%:*},${w#*:},"
            if grep -qF "$key" "$table"; then continue; fi
            "$BITBUDGET" eval "$file" --text "$texts/$domain.txt" --parse-special --ctx "${w%:*}" --chunks "${w#*:}" --spread --precision fast --reference "$source" --detail --json -q > "$json"
            {
                awk -v get="detail.positions.1.first detail.positions.8.last n_tokens ppl nll_nats ln_ratio kl_nats kl_se top1 kl_quantiles.0.90 kl_quantiles.0.99 kl_quantiles.0.999 detail.documents.blocks detail.documents.rule detail.documents.kl_se detail.documents.kl_low detail.documents.kl_high" -f "$here/json.awk" "$json" |
                    awk -F, -v OFS=, '{ $5 = sprintf("%.6g", exp($5 - $6)); for (i = 6; i < NF; i++) $i = $(i + 1); NF--; print }'
                awk -v get="$spans" -f "$here/json.awk" "$json" | awk -F, -v OFS=, '{ for (i = 1; i <= NF; i += 8) print $i, $(i + 1), $(i + 2), $(i + 3), $(i + 4), $(i + 5), $(i + 6), $(i + 7), "", "", "", "", "", "", "", "" }'
            } | while read -r row; do echo "$key$row"; done >> "$table"
        done
    done
done
