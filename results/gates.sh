#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/gates.csv: a share of all FFN channels removed, other weights full precision (F16). widths: every block loses the same share (even), or the share is
# taken from all together, by the relative error of each block (own) or by what gates foresee. order: which of a block go, by its own error (obs) or by gates. finish: least squares in ffn_down, or all matrices rebuilt in sequence.
# usage: gates.sh NAME MODEL CALIB EVAL WORK > gates.csv    WORK holds what is finished. BITBUDGET: the program; EVAL_WINDOWS, CALIB_WINDOWS as for quantize; FINISH: which.
set -eu
name=$1 model=$2 calib=$3 eval=$4 work=$5
: "${BITBUDGET:=./bitbudget}" "${EVAL_WINDOWS:=48}" "${CALIB_WINDOWS:=64}" "${FINISH:=least-squares}"
mkdir -p "$work"

echo model,fraction,widths,order,finish,size_bytes,kl_nats,kl_se,ppl,ppl_se
for finish in $FINISH; do
    method=weighted
    [ "$finish" = least-squares ] || method=sequential
    for fraction in 0.15 0.30 0.45; do
        for how in even,obs even,gates own,obs gates,obs gates,gates; do
            out=$work/$fraction-$how-$finish
            [ -s "$out" ] || $BITBUDGET quantize "$model" --prune-ffn "$fraction" --ffn-widths "${how%,*}" --width-order "${how#*,}" --method $method --calib "$calib" \
                --calib-windows "$CALIB_WINDOWS" --database "$work/database" --eval "$eval" --eval-windows "$EVAL_WINDOWS" --out "$out.gguf" --csv -q > "$out.part"
            [ -s "$out" ] || mv "$out.part" "$out"
            rm -f "$out.gguf"
            awk -F, -v OFS=, -v m="$name" -v f="$fraction" -v h="$how" -v e="$finish" \
                'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i } NR == 2 { print m, f, h, e, $at["size_bytes"], $at["kl_nats"], $at["kl_se"], $at["ppl"], $at["ppl_se"] }' "$out"
        done
    done
done
