# SPDX-License-Identifier: GPL-3.0-or-later
# llama.cpp's programs as the judge of files; sourced by llamacpp.sh and real.sh. They set: me (the script's name, for messages), bin (folder of the programs), log (a file
# for what they say), THREADS, CTX, CHUNKS.
# shellcheck shell=sh disable=SC2154
export OMP_WAIT_POLICY=passive

need_programs() {
    for program in perplexity quantize imatrix; do
        [ -x "$bin/llama-$program" ] || { echo "$me: there is no $bin/llama-$program: LLAMACPP is the folder of llama.cpp's programs" >&2; exit 2; }
    done
}

sha() { sha256sum < "$1" | cut -c1-16; }

# A program of llama.cpp; what it says is shown only when it fails.
quietly() { "$@" > "$log" 2>&1 || { echo "$me: $1 failed:" >&2; tail -n 3 "$log" >&2; exit 1; }; }

# source_logits MODEL TEXT FILE KEY: the logits of a model for the first CHUNKS windows of CTX tokens, into FILE, unless FILE.key says that they are there. KEY: hash of the model.
source_logits() {
    wanted="$4 $(sha "$2") $CTX $CHUNKS"
    if [ -s "$3" ] && [ "$(cat "$3.key" 2> /dev/null)" = "$wanted" ]; then return; fi
    quietly "$bin/llama-perplexity" -m "$1" -f "$2" -c "$CTX" --chunks "$CHUNKS" -t "$THREADS" --kl-divergence-base "$log.logits"
    mv "$log.logits" "$3"
    echo "$wanted" > "$3.key"
}

# compare FILE LOGITS: llama-perplexity's statistics of a file against logits, in $log. Its logger may lose the end of what it says when its queue is full at the exit (seen with
# commit 0c1e570); then it is asked again.
compare() {
    for attempt in 1 2 3 4 5 6 7 8; do
        quietly "$bin/llama-perplexity" -m "$1" -c "$CTX" -t "$THREADS" --kl-divergence --kl-divergence-base "$2"
        if grep -q '^Same top p' "$log"; then return; fi
    done
    echo "$me: llama-perplexity printed no statistics of $1 in $attempt attempts" >&2
    exit 1
}

# statistics NAME...: of the last compare, separated by commas: ppl ppl_se ln_ratio ln_ratio_se kl kl_se p90 p99 p999 top1 (per cent)
statistics() {
    awk -v names="$*" '/^Mean PPL\(Q\) +:/ { v["ppl"] = $4; v["ppl_se"] = $6 } /^Mean ln\(PPL\(Q\)\/PPL/ { v["ln_ratio"] = $4; v["ln_ratio_se"] = $6 }
        /^Mean +KLD/ { v["kl"] = $3; v["kl_se"] = $5 } /^90.0% +KLD/ { v["p90"] = $3 } /^99.0% +KLD/ { v["p99"] = $3 } /^99.9% +KLD/ { v["p999"] = $3 } /^Same top p/ { v["top1"] = $4 }
        END {
            n = split(names, name, " ")
            for (i = 1; i <= n; i++) {
                if (v[name[i]] == "") exit 1
                printf "%s%s", v[name[i]], i < n ? "," : "\n"
            }
        }' "$log" || { echo "$me: llama-perplexity printed no KL" >&2; exit 1; }
}
