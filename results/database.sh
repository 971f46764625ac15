#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/database.csv: for each format (all linears in it, embedding Q6_K) and each of llama.cpp's mixtures (like:NAME, the same types tensor by
# tensor): round to nearest, importance-weighted encode, our best without training (database: error feedback, sequential rebuild) and
# llama.cpp's own file (llama-perplexity, all of the text).
# usage: database.sh DATA WORK > database.csv    WORK holds what is finished, so that an interrupted call goes on.
# BITBUDGET: the program; MODELS, METHODS, TYPES: parts of the table; EVAL_WINDOWS, CALIB_WINDOWS, SWEEPS: as for `bitbudget quantize`.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${MODELS:=wiki8m stories3M-p256}" "${METHODS:=rtn weighted database}" "${EVAL_WINDOWS:=64}" "${CALIB_WINDOWS:=64}" "${SWEEPS:=2}"
: "${TYPES:=Q1_0 IQ1_S TQ1_0 IQ1_M IQ2_XXS TQ2_0 IQ2_XS Q2_0 IQ2_S Q2_K IQ3_XXS IQ3_S Q3_K IQ4_XS Q4_K Q4_0 IQ4_NL
like:IQ1_S like:IQ1_M like:IQ2_XXS like:IQ2_XS like:IQ2_S like:IQ2_M like:Q2_K like:IQ3_XXS like:IQ3_XS like:IQ3_M like:Q3_K_M like:IQ4_XS like:Q4_K_M}"

calibration_text() { case $1 in wiki8m) echo "$data/corpora/wikitext-2-raw/wiki.valid.raw" ;; *) echo "$data/corpora/tinystories/tinystories_train.txt" ;; esac; }
evaluation_text() { case $1 in wiki8m) echo "$data/corpora/wikitext-2-raw/wiki.test.raw" ;; *) echo "$data/corpora/tinystories/tinystories_valid_a.clean.txt" ;; esac; }

# The types of a mixture as a recipe.
recipe() { awk -F, -v m="$1" -v x="$2" '{ sub(/\r$/, "") } $1 == m && $2 == x { gsub(/\./, "\\.", $3); print "^" $3 "$=" $4 }' "$data/baselines/mixtures.csv"; }

# llama.cpp's row of a type; the pure Q2_K, Q3_K and Q4_K are made with the names of its smallest mixtures.
theirs() {
    awk -F, -v m="$1" -v t="$2" '
        { sub(/\r$/, "") }
        FNR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        t ~ /^like:/ && $col["mixture"] == "default" && "like:" $1 == t || \
        t !~ /^like:/ && $col["mixture"] == "pure" && $col["embedding"] == "q6_K" && ($1 == t || t ~ /^Q[234]_K$/ && $1 == t "_S") {
            printf "%s,%s,llamacpp,%s,%.4f,%s,%s,%s,%s\n", m, t, $col["size_bytes"], 8 * $col["size_bytes"] / weights, $col["kl_nats"], $col["kl_se"],
                   $col["ppl"], $col["ppl_se"]
        }' weights="$3" "$data/baselines/$1-llamacpp.csv"
}

mkdir -p "$work"
echo model,format,method,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se
for model in $MODELS; do
    source=$data/models/$model/$model-f16.gguf
    weights=$($BITBUDGET inspect "$source" -q | awk '$1 == "total" { print $4 }')
    for type in $TYPES; do
        for method in $METHODS; do
            row=$work/$model.$type.$method.csv out=$work/$model.$type.$method.gguf
            case $method in database) name=sequential ;; *) name=$method ;; esac
            if [ ! -s "$row" ]; then
                case $type in
                    like:*) recipe "$model" "${type#like:}" > "$work/$model.$type.txt"; set -- --recipe "$work/$model.$type.txt" ;;
                    *) set -- --format "$type" --embd-format Q6_K ;;
                esac
                $BITBUDGET quantize "$source" "$@" --method $name --calib "$(calibration_text "$model")" --calib-windows "$CALIB_WINDOWS" --sweeps "$SWEEPS" --database "$work/$model" \
                    --eval "$(evaluation_text "$model")" --eval-windows "$EVAL_WINDOWS" --out "$out" --csv -q > "$row.new"
                rm -f "$out"
                awk -F, -v OFS=, -v m="$model" -v t="$type" -v x="$method" 'NR == 2 { $1 = m; $2 = t; $3 = x; print }' "$row.new" > "$row.row"
                rm "$row.new"
                mv "$row.row" "$row"
            fi
            cat "$row"
        done
        theirs "$model" "$type" "$weights"
    done
done
