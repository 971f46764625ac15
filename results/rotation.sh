#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/rotation.csv: the models turned into other bases before they are quantized (model/compress/rotate.h). r1 unties the head, which costs
# the bytes of a second table: compare at equal bytes.
# usage: rotation.sh DATA WORK > rotation.csv    WORK holds what is finished. BITBUDGET: the program; MODELS, FORMATS, METHODS, EVAL_WINDOWS,
# CALIB_WINDOWS, SWEEPS: parts of the table, and as for `bitbudget quantize`.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${MODELS:=wiki8m stories3M-p256}" "${FORMATS:=Q2_K Q4_0}" "${METHODS:=sequential}" "${EVAL_WINDOWS:=48}" \
  "${CALIB_WINDOWS:=32}" "${SWEEPS:=2}"
mkdir -p "$work"
echo model,format,method,rotation,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se
for model in $MODELS; do
    case $model in
        wiki8m) calib=$data/corpora/wikitext-2-raw/wiki.valid.raw eval=$data/corpora/wikitext-2-raw/wiki.test.raw ;;
        *) calib=$data/corpora/tinystories/tinystories_train.txt eval=$data/corpora/tinystories/tinystories_valid_a.clean.txt ;;
    esac
    for format in $FORMATS; do
        for method in $METHODS; do
            for rotation in none r2 r1 r12; do
                row=$work/$model.$format.$method.$rotation.csv
                if [ ! -s "$row" ]; then
                    $BITBUDGET quantize "$data/models/$model/$model-f16.gguf" --format "$format" --rotate $rotation --method "$method" --calib "$calib" \
                        --calib-windows "$CALIB_WINDOWS" --sweeps "$SWEEPS" --database "$work/$model" --eval "$eval" --eval-windows "$EVAL_WINDOWS" \
                        --out "$row.gguf" --csv -q > "$row.new"
                    rm -f "$row.gguf"
                    awk -F, -v OFS=, -v m="$model" -v f="$format" -v r=$rotation 'NR == 2 { print m, f, $3, r, $4, $5, $6, $7, $8, $9 }' "$row.new" > "$row.row"
                    rm "$row.new"
                    mv "$row.row" "$row"
                fi
                cat "$row"
            done
        done
    done
done
