#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/database.csv: for each format (all linears in it, embedding Q6_K) and each of llama.cpp's mixtures (like:NAME, the same types tensor by
# tensor): round to nearest, importance-weighted encode, our best without training (database: error feedback, sequential rebuild) and, where LLAMACPP
# is the folder of llama.cpp's programs, its own file. All are measured by our engine on the same windows.
# usage: database.sh DATA WORK > database.csv    WORK holds what is finished, so that an interrupted call goes on.
# BITBUDGET: the program; MODELS, METHODS, TYPES: parts of the table; EVAL_WINDOWS, CALIB_WINDOWS, SWEEPS: as for `bitbudget quantize`.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${MODELS:=wiki8m stories3M-p256}" "${METHODS:=rtn weighted database}" "${EVAL_WINDOWS:=48}" "${CALIB_WINDOWS:=32}" "${SWEEPS:=2}" \
  "${THREADS:=2}" "${IMATRIX:=$work}"
: "${TYPES:=IQ1_S IQ2_XXS Q2_0 Q2_K IQ3_XXS Q3_K IQ4_XS Q4_K
like:IQ1_S like:IQ2_XXS like:IQ3_XXS like:Q4_K_M}"

calibration_text() { case $1 in wiki8m) echo "$data/corpora/wikitext-2-raw/wiki.valid.raw" ;; *) echo "$data/corpora/tinystories/tinystories_train.txt" ;; esac; }
evaluation_text() { case $1 in wiki8m) echo "$data/corpora/wikitext-2-raw/wiki.test.raw" ;; *) echo "$data/corpora/tinystories/tinystories_valid_a.clean.txt" ;; esac; }

# The types of a mixture as a recipe.
recipe() { awk -F, -v m="$1" -v x="$2" '{ sub(/\r$/, "") } $1 == m && $2 == x { gsub(/\./, "\\.", $3); print "^" $3 "$=" $4 }' "$data/baselines/mixtures.csv"; }

# llama.cpp's own file of a type, made by its llama-quantize with an importance matrix of the calibration text (IMATRIX/MODEL.imatrix.gguf), and
# measured like ours: by our engine, on the same windows. The names of its files that hold one type: those of the smallest mixtures.
theirs() {
    name=${2#like:} imatrix=$1.imatrix.gguf out=$work/$1.$2.llamacpp.gguf source=$(readlink -f "$data/models/$1/$1-f16.gguf") programs=$(cd "$LLAMACPP" && pwd)
    if [ ! -s "$work/$imatrix" ]; then
        if [ -s "$IMATRIX/$imatrix" ]; then cp "$IMATRIX/$imatrix" "$work/new.imatrix.gguf"
        else "$programs/llama-imatrix" -m "$source" -f "$(calibration_text "$1")" -c 256 -t "$THREADS" -o "$work/new.imatrix.gguf" > "$work/log" 2>&1
        fi
        mv "$work/new.imatrix.gguf" "$work/$imatrix"
    fi
    case $2 in
        like:*) set -- "$1" "$2" "$3" ;;
        Q2_K | Q3_K | Q4_K) set -- "$1" "$2" "$3" --pure --token-embedding-type q6_K; name=$2_S ;;
        *) set -- "$1" "$2" "$3" --pure --token-embedding-type q6_K ;;
    esac
    model=$1 type=$2 weights=$3
    shift 3
    (cd "$work" && "$programs/llama-quantize" "$@" --imatrix "$imatrix" "$source" "$(basename "$out")" "$name" "$THREADS" > log 2>&1) || { tail -n 2 "$work/log" >&2; exit 1; }
    $BITBUDGET eval "$out" --text "$(evaluation_text "$model")" --protocol gguf --ctx 256 --chunks "$EVAL_WINDOWS" --spread --reference "$source" --json -q > "$work/json"
    awk -F'[:,]' -v OFS=, -v m="$model" -v t="$type" -v size="$(stat -c %s "$out")" -v weights="$weights" '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
        END { printf "%s,%s,llamacpp,%d,%.4f,%.9g,%.9g,%.9g,%.9g\n", m, t, size, 8 * size / weights, v["kl_nats"], v["kl_se"], v["ppl"], v["ppl_se"] }' "$work/json"
    rm -f "$out"
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
        if [ -n "${LLAMACPP:-}" ]; then
            row=$work/$model.$type.llamacpp.csv
            if [ ! -s "$row" ]; then
                theirs "$model" "$type" "$weights" > "$row.row"
                mv "$row.row" "$row"
            fi
            cat "$row"
        fi
    done
done
