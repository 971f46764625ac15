#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/real.csv: files of a pretrained model, judged by llama-perplexity against its full precision on the same windows of several texts.
# usage: real.sh judge    LLAMACPP MODEL-F16.gguf TEXTS WORK TABLE.csv METHOD CALIBRATION FILE.gguf...     one row a file and text
#        real.sh rivals   LLAMACPP MODEL-F16.gguf CALIB.txt WORK                                         llama.cpp's files into WORK/rivals
#   LLAMACPP  folder of llama-perplexity, llama-quantize, llama-imatrix
#   TEXTS     the folder that real-texts.sh made
#   WORK      scratch: the logits of the source (chunks x ctx/2 x vocabulary x 2 bytes a text; kept until `make reproduce-real` ends), files of rivals
#   METHOD    "-" in its place, or as its last word: the name of the file
#   TABLE     rows are appended; a row that is there already (same file, text, context, windows) is not measured again
# CTX (512), CHUNKS (16), THREADS (2), DOMAINS (encyclopedia web dialogue code); SECONDS_OF: a CSV FILE,SECONDS of what made the files; JUDGES (llama-perplexity): or bitbudget (BITBUDGET,
# the program: float32 activations, the same windows), or both. DEQUANTIZE: another program's llama-quantize, for files of types that LLAMACPP lacks: they are judged as the F16 that it
# makes of them (their activations are then not rounded to 8 bits, which can only help them).
set -euo pipefail
: "${CTX:=512}" "${CHUNKS:=16}" "${THREADS:=2}" "${DOMAINS:=encyclopedia web dialogue code}" "${BITBUDGET:=./bitbudget}" "${JUDGES:=llama-perplexity}"
export LC_ALL=C
what=$1 bin=$(cd "$2" && pwd) source=$(readlink -f "$3")
me=real.sh
. "$(dirname "$0")/judge.sh"
need_programs
# Several may judge at once, in one WORK.
scratch() {
    mkdir -p "$work"
    work=$(cd "$work" && pwd)
    log=$work/log.$$
    trap 'rm -f "$log" "$log".*' EXIT
}

# llama-perplexity takes the text of special tokens as text unless their kind is "user-defined": in a copy of the source the control tokens (kind 3) among the first 17 tokens, which are
# those of ChatML in SmolLM2, are of this kind (4), and it takes them as in a chat, but for <|im_end|>, which llama.cpp makes a control token again: that one stays text. The weights are the source's.
chat_copy() {
    [ -s "$work/chat.gguf" ] && return
    local at i
    at=$(($(grep -abo -m1 tokenizer.ggml.token_type "$source" | head -n 1 | cut -d: -f1) + 25 + 4 + 4 + 8)) # the key, two kinds, the length
    cp "$source" "$work/chat.gguf.new"
    chmod u+w "$work/chat.gguf.new"
    for ((i = 0; i < 17; i++)); do
        [ "$(od -An -tu1 -j $((at + 4 * i)) -N 1 "$source")" -eq 3 ] || continue
        printf '\004' | dd of="$work/chat.gguf.new" bs=1 seek=$((at + 4 * i)) conv=notrunc status=none
    done
    mv "$work/chat.gguf.new" "$work/chat.gguf"
}

# The logits of the source for a text, in $logits; made once.
reference() { # DOMAIN
    local from=$source
    logits=$work/$1.$CTX.$CHUNKS.logits
    if [ "$1" = dialogue ]; then chat_copy; from=$work/chat.gguf; fi
    source_logits "$from" "$texts/$1.txt" "$logits" "$(sha "$source")"
}

# Is the row there that begins with $key, of the file $hash?
is_there() { awk -F, -v k="$key" -v h="$hash" 'index($0, k) == 1 && $NF == h { found = 1 } END { exit !found }' "$table"; }

# What stands in a row before and behind the figures of a file: $method, $size (its bytes, and bits a weight), $seconds, $hash.
describe() { # METHOD FILE
    local bytes
    method=$1
    if [[ $1 =~ ^(.* )?-$ ]]; then method=${1%-}$(basename "$2" .gguf); fi
    bytes=$(stat -Lc %s "$2") hash=$(sha "$2")
    size=$bytes,$(awk -v b="$bytes" -v n="$weights" 'BEGIN { printf "%.3f", 8 * b / n }')
    seconds=
    if [ -s "${SECONDS_OF:-}" ]; then seconds=$(awk -F, -v f="$(basename "$2")" '$1 == f { s = $2 } END { print s }' "$SECONDS_OF"); fi
}

judge() { # METHOD CALIBRATION FILE
    local method size seconds hash d key judged figures
    describe "$1" "$3"
    for d in $DOMAINS; do
        key="$model,$method,$size,llama-perplexity,$d,$CTX,$CHUNKS,"
        if ! is_there; then
            reference "$d"
            # Q2_0 and Q1_0 have no product for x86 in llama.cpp of August 2026, only plain C, 25 times slower: a file with such a matrix is judged as F16 (DEQUANT=0: as it is).
            judged=$3
            if [ -n "${DEQUANTIZE:-}" ]; then
                judged=$log.gguf
                [ -s "$judged" ] || quietly "$DEQUANTIZE" --allow-requantize "$3" "$judged" F16 1
            elif [ "${DEQUANT:-auto}" != 0 ] && "$BITBUDGET" inspect "$3" | grep -E '^[0-9].* Q[12]_0( |$)|^embedding .* (2\.25|1\.125)' > /dev/null; then
                judged=$log.gguf
                [ -s "$judged" ] || quietly "$bin/llama-quantize" --allow-requantize "$3" "$judged" F16 "$THREADS"
            fi
            compare "$judged" "$logits"
            figures=$(statistics ppl ppl_se kl kl_se p90 p99 p999 top1)
            echo "$key$figures,$2,$seconds,$hash" >> "$table"
        fi
    done
    rm -f "$log.gguf"
}

# All files by our engine, full precision run once a text.
judge_by_ours() { # METHOD CALIBRATION FILE...
    local method size seconds hash d key f i files heads tails before=() hashes=() behind=()
    for f in "${@:3}"; do
        describe "$1" "$f"
        before+=("$model,$method,$size") hashes+=("$hash") behind+=(",$2,$seconds,$hash")
    done
    for d in $DOMAINS; do
        files=() heads=() tails=() i=0
        for f in "${@:3}"; do
            key="${before[i]},bitbudget,$d,$CTX,$CHUNKS," hash=${hashes[i]}
            if ! is_there; then files+=("$f") heads+=("$key") tails+=("${behind[i]}"); fi
            i=$((i + 1))
        done
        [ ${#files[@]} -gt 0 ] || continue
        "$BITBUDGET" compare "$source" "${files[@]}" --text "$texts/$d.txt" --parse-special --protocol gguf --ctx "$CTX" --chunks "$CHUNKS" --precision fast -q | {
            local names line figures at=0
            IFS= read -r names
            while IFS= read -r line; do # a row is there as soon as its file is judged
                # Columns are counted from the end: names of files may hold commas.
                figures=$(printf '%s\n' "$names" "$line" | awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) from_end[$i] = NF - i; next }
                    function v(name) { return $(NF - from_end[name]) }
                    { print v("ppl") "," v("ppl_se") "," v("kl_nats") "," v("kl_se") "," v("kl_p90") "," v("kl_p99") "," v("kl_p999") "," sprintf("%.5g", 100 * v("top1")) }')
                echo "${heads[at]}$figures${tails[at]}" >> "$table"
                at=$((at + 1))
            done
        }
    done
}

case $what in
judge)
    texts=$4 work=$5 table=$6 method=$7 calibration=$8
    shift 8
    case $method in *,*) echo "real.sh: METHOD is a cell of a table: no comma in '$method'" >&2; exit 2 ;; esac
    scratch
    model=$(basename "$source" .gguf); model=${MODEL:-$model}
    [ -s "$table" ] || echo "model,method,size_bytes,bpw,judge,text,ctx,chunks,ppl,ppl_se,kl_nats,kl_se,kl_p90,kl_p99,kl_p999,top1_percent,calibration,seconds,sha256" > "$table"
    weights=$("$BITBUDGET" inspect "$source" | awk '/^total/ { print $4 }')
    if [[ " $JUDGES " == *" llama-perplexity "* ]]; then for f in "$@"; do judge "$method" "$calibration" "$f"; done; fi
    if [[ " $JUDGES " == *" bitbudget "* ]]; then judge_by_ours "$method" "$calibration" "$@"; fi
    ;;
rivals)
    calib=$4 work=$5
    scratch
    mkdir -p "$work/rivals"
    if [ ! -s "$work/calibration.imatrix.gguf" ]; then
        quietly "$bin/llama-imatrix" -m "$source" -f "$calib" --parse-special --no-ppl -c 512 -t "$THREADS" -o "$work/new.imatrix.gguf"
        mv "$work/new.imatrix.gguf" "$work/calibration.imatrix.gguf"
    fi
    # NAME TYPE [OPTIONS of llama-quantize]: its default mixtures, then mixtures by hand for sizes below its smallest.
    { grep -v '^#' "${RIVALS:-configs/reproduce/smollm2-rivals.txt}" || true; } | while read -r name type options; do
        file=$work/rivals/$name.gguf
        if [ -z "$name" ] || [ -s "$file" ]; then continue; fi
        # shellcheck disable=SC2086
        (cd "$work" && "$bin/llama-quantize" --imatrix calibration.imatrix.gguf $options "$source" "$file.new" "$type" "$THREADS" > "$log" 2>&1) || {
            echo "real.sh: llama-quantize failed on $name:" >&2; tail -n 3 "$log" >&2; exit 1; }
        mv "$file.new" "$file"
    done
    ;;
*) echo "real.sh: $what is neither judge nor rivals" >&2; exit 2 ;;
esac
