#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/search-real.csv: searched plans beside simple ones after the same finishing, on texts that neither calibration nor search saw. Nothing is measured here: the rows are those of
# tables that are there.
# usage: search-real.sh RESULTS > TABLE.csv
#   RESULTS/front.csv, baselines.csv                    wiki8m, its searched and its uniform plans on WikiText-2 test, by our engine
#   RESULTS/stories3M-p256/front.csv, baselines.csv     stories3M-p256 on TinyStories validation
#   RESULTS/real.csv                                    a pretrained model: `ours` and `ours without search: TYPE` (uniform) or `... like NAME` (a mixture: the types of another
#                                                       program's file), by llama-perplexity
# tokens, seconds: what the file cost, where the table says it.
set -eu
export LC_ALL=C
r=$1
echo "model,method,size_bytes,bpw,text,kl_nats,kl_se,ppl,ppl_se,tokens,seconds"
plans() { # MODEL TEXT FOLDER
    for f in front baselines; do
        tr -d '\r"' < "$3/$f.csv" | awk -F, -v OFS=, -v m="$1" -v t="$2" 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
            ("plan_hash" in c) && $c["plan_hash"] == "-" || $c["kl_nats"] == "" { next }
            { print m, ("name" in c) ? $c["name"] : "ours", $c["size_bytes"], $c["bpw"], t, $c["kl_nats"], $c["kl_se"], $c["ppl"], $c["ppl_se"], "", "" }'
    done
}
plans wiki8m "WikiText-2 test" "$r"
plans stories3M-p256 "TinyStories validation" "$r/stories3M-p256"
tr -d '\r"' < "$r/real.csv" | awk -F, -v OFS=, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
    $c["judge"] != "llama-perplexity" || $c["ctx"] != 512 { next }
    $c["method"] !~ /^ours( \(mixture\))?$/ && $c["method"] !~ /^ours without search: / { next }
    {
        method = $c["method"]
        text = $c["text"]
        if ($c["calibration"] !~ /^mixture(;|$)/) text = text " (calibrated on " $c["calibration"] ")" # plans are held beside those of the same text
        sub(/ \(mixture\)$/, "", method)
        if (sub(/^ours without search: like /, "", method)) method = "mixture " method
        else if (sub(/^ours without search: /, "", method)) method = "uniform " method
        print $c["model"], method, $c["size_bytes"], $c["bpw"], text, $c["kl_nats"], $c["kl_se"], $c["ppl"], $c["ppl_se"], "", $c["seconds"]
    }'
