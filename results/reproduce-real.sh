#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# `make reproduce-real`: SmolLM2-135M-Instruct by bitbudget and by llama.cpp, into WORK; the tables are WORK/real*.csv. Whatever is there is not made again: killed, the same
# command goes on. usage: reproduce-real.sh LLAMACPP DATA MODEL.Q4_1.gguf WORK
# QUICK=1: two sizes, four rivals, four windows a text, a quarter of the calibration text, as much search a size, no calibration study. SIZES: of the sweep. SETS: calibration texts of the study (real-calibration.sh). TRAINED: sizes that `qat` trains on, SIZE or SIZE:TOKENS:RATE:SCALE_RATE (0: the default rate). THREADS (2). BITBUDGET: the program.
set -euo pipefail
cd "$(dirname "$0")/.."
llamacpp=$1 data=$2 model=$3 work=$4
: "${THREADS:=2}" "${BITBUDGET:=./bitbudget}"
export BITBUDGET THREADS OMP_NUM_THREADS=$THREADS MODEL=SmolLM2-135M SECONDS_OF=$work/seconds.txt
source=$work/SmolLM2-135M.gguf
if [ -n "${QUICK:-}" ]; then
    export CHUNKS=${CHUNKS:-4} RIVALS=configs/reproduce/smollm2-rivals-quick.txt
    : "${SIZES:=60000000,82333792}"
    uniform= like= windows=64 outputs=16 # the sweep's own uniform plans, finished alike, are beside it
    : "${SETS:=}"
else
    : "${SIZES:=}"
    windows=256 outputs=64 uniform="Q2_0 IQ4_NL Q5_0" like="IQ4_NL+down.IQ2_XXS IQ4_NL+embd.Q5_0+kv.Q5_0 Q5_0+down.IQ4_NL.8"
    : "${SETS:=encyclopedia:16 code:16 web:16 dialogue:16 four:16 self:16 mixture:16 mixture,self:64}"
fi
mkdir -p "$work/judge"
touch "$SECONDS_OF"
judge() { bash results/real.sh judge "$llamacpp" "$source" "$work/texts" "$work/judge" "$work/real.csv" "$@"; }
own="mixture and self; $((windows * 256)) tokens" # what ours is calibrated on: windows of 256
TIMEFORMAT="%U %S"
# made FILE COMMAND...: runs it unless the file is there; processor seconds into SECONDS_OF
made() {
    local file=$1
    shift
    [ -s "$file" ] && return
    { time "$@" 2> "$work/log"; } 2> "$work/times" || { tail -n 3 "$work/log" >&2; exit 1; }
    awk -v f="$(basename "$file")" '{ printf "%s,%.0f\n", f, $1 + $2 }' "$work/times" >> "$SECONDS_OF"
}

[ -s "$source" ] || "$BITBUDGET" quantize "$model" --format F16 --embd-format F16 --method rtn --out "$source"
sh results/real-texts.sh "$data" "$work/texts"
cp "$work/texts/texts.csv" "$work/real-texts.csv"
sh results/real-calib.sh > "$work/mixture.txt"
# shellcheck disable=SC2086
bash results/real-calibration.sh "$source" "$work/texts" "$work/calibration" "$work/real-calibration.csv" $SETS

# The rivals, and full precision as they see it.
bash results/real.sh rivals "$llamacpp" "$source" "$work/mixture.txt" "$work/judge"
judge F16 none "$source"
for f in "$work"/judge/rivals/*.gguf; do judge "llama.cpp $(basename "$f" .gguf)" mixture "$f"; done

# Ours without a search: one type for all, and the types of a file of theirs (same bytes, better codes).
for t in $uniform; do
    e=$t
    [ "$t" != Q2_0 ] || e=IQ4_NL
    made "$work/uniform-$t.gguf" "$BITBUDGET" quantize "$source" --format "$t" --embd-format "$e" --effort quick --precision fast --calib mixture,self --calib-windows $windows --output-windows $outputs --out "$work/uniform-$t.gguf"
    judge "ours without search: $t" "$own" "$work/uniform-$t.gguf"
done
for t in $like; do
    made "$work/like-$t.gguf" "$BITBUDGET" quantize "$source" --like "$work/judge/rivals/$t.gguf" --method sequential --effort quick --precision fast --calib mixture,self --calib-windows $windows --output-windows $outputs --out "$work/like-$t.gguf"
    judge "ours without search: like $t" "$own" "$work/like-$t.gguf"
done
# Ours: every size of the sweep.
# shellcheck disable=SC2086
"$BITBUDGET" sweep "$source" --config configs/reproduce/smollm2.yaml ${SIZES:+--sizes $SIZES} --calib-windows $windows --output-windows $outputs ${QUICK:+--search-tokens 0.16} --out "$work/sweep"
mapfile -t ours < <(tr -d '\r' < "$work/sweep/front.csv" | awk -F, -v at="$work/sweep/models" 'NR > 1 && $1 != "-" { print at "/" $1 ".gguf" }')
JUDGES="llama-perplexity bitbudget" judge ours "$own" "${ours[@]}"
cp "$work/sweep/domains.csv" "$work/real-domains.csv"

# What each part of the job adds, on the sweep's own windows (calibration text that nothing but the search saw): the searched plans and the simple ones beside them, before and
# after finalise.
{
    echo "model,plan,size_bytes,bpw,kl_before_finalise,kl_before_se,kl_nats,kl_se"
    tr -d '\r' < "$work/sweep/front.csv" | awk -F, -v OFS=, -v m="$MODEL" 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
        $c["plan_hash"] != "-" { print m, "searched", $c["size_bytes"], $c["bpw"], $c["kl_before_finalise"], $c["kl_before_se"], $c["kl_nats"], $c["kl_se"] }'
    tr -d '\r' < "$work/sweep/baselines.csv" | awk -F, -v OFS=, -v m="$MODEL" 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
        { gsub(/"/, "", $c["name"]); print m, $c["name"], $c["size_bytes"], $c["bpw"], $c["kl_before_finalise"], $c["kl_before_se"], $c["kl_nats"], $c["kl_se"] }'
} > "$work/real-ablation.csv"

[ -z "${QUICK:-}" ] || exit 0
# The best of theirs once more, with an importance matrix of the very text that the sweep was calibrated on.
ids=$(find "$work/sweep" -maxdepth 1 -name "calib-self-*.u32" | head -n 1)
[ -s "$work/mixture-self.txt" ] || { "$BITBUDGET" tokenize "$source" --decode --text "$ids" --out "$work/self.txt"; cat "$work/mixture.txt" "$work/self.txt" > "$work/mixture-self.txt"; }
RIVALS=configs/reproduce/smollm2-rivals-self.txt bash results/real.sh rivals "$llamacpp" "$source" "$work/mixture-self.txt" "$work/judge-self"
for f in "$work"/judge-self/rivals/*.gguf; do judge "llama.cpp $(basename "$f" .gguf) (mixture and self)" "$own" "$f"; done
of_size() { tr -d '\r' < "$work/sweep/front.csv" | awk -F, -v most="$1" 'NR > 1 && $1 != "-" && $2 <= most { best = $1 } END { print best }'; }
# Some of these files trained on: where the step gains most, and where types that stock llama.cpp lacks come nearest.
for trained in ${TRAINED-47711360 60000000 69484384 82333792}; do
    IFS=: read -r size tokens rate scale_rate <<< "$trained"
    : "${tokens:=0.3}" "${rate:=0}" "${scale_rate:=0}"
    plan=$(of_size "$size")
    made "$work/sweep/models/$plan-qat.gguf" "$BITBUDGET" qat "$work/sweep" --plan "$plan" --precision fast --tokens "$tokens" --rate "$rate" --scale-rate "$scale_rate" > /dev/null
    judge "ours + qat" "$own; trained on $tokens M" "$work/sweep/models/$plan-qat.gguf"
done
# Other searches on the same measurements, with twenty times our tokens or their authors' schedule, finished alike.
[ -s "$work/search-finished-real.csv" ] || "$BITBUDGET" rivals "$work/sweep" --methods ours,uniform,rco,evopress --times 20 --sizes 69484384 --finish --out "$work/search-finished-real.csv"

# Longer contexts, whole texts, places in the window, documents, zero-shot tasks, greedy decoding: sizes of ours and the best of theirs at these.
pairs() { # SIZE=RIVAL...: into $files
    local pair
    files=()
    for pair in "$@"; do files+=("ours=$work/sweep/models/$(of_size "${pair%%=*}").gguf" "llama.cpp ${pair#*=}=$work/judge/rivals/${pair#*=}.gguf"); done
}
judge_each() { local pair; for pair in "${files[@]}"; do judge "${pair%%=*}" "$([ "${pair%%=*}" = ours ] && echo "$own" || echo mixture)" "${pair#*=}"; done; }
CHUNKS=98 JUDGES=bitbudget judge ours "$own" "${ours[@]}"
CHUNKS=98 JUDGES=bitbudget judge "llama.cpp -" mixture "$work"/judge/rivals/{Q2_0+embd.IQ4_NL,IQ4_NL+gateup.MXFP4+down.IQ2_S,IQ4_NL,IQ4_NL+embd.Q5_0+k.Q5_0+v.Q8_0+down.IQ4_XS,Q5_0+down.IQ4_NL.8,Q5_0+down.Q6_K}.gguf
pairs 69484384=IQ4_NL+gateup.MXFP4+down.IQ2_S 77571424=IQ4_NL 82333792=IQ4_NL+embd.Q5_0+k.Q5_0+v.Q8_0+down.IQ4_XS 93510496=Q5_0+down.IQ4_NL.8 98000000=Q5_0+down.Q6_K
WINDOWS=512:32 bash results/real-positions.sh "$source" "$work/texts" "$work/real-positions.csv" "${files[@]:0:2}"
CTX=2048 CHUNKS=2 judge_each
bash results/real-greedy.sh "$source" "$work/texts" "$work/real-greedy.csv" "${files[@]}"
ITEMS=100 bash results/real-tasks.sh "$source" "$data" "$work/real-tasks.csv" "${files[@]}"
