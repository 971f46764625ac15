#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The texts of results/real.csv: four domains, of each a held-out one (OUT/NAME.txt) and one of other documents to calibrate on (OUT/calib/NAME.txt).
#   encyclopedia   WikiText-2 test as it is; calibration: WikiText-2 valid
#   web            the C4 sample, documents 350 to 699, as plain text; calibration: documents 0 to 349
#   dialogue       GSM8K, items 660 to 1318, three questions and answers a conversation in the chat template of SmolLM2 (ChatML; to be tokenized with its
#                  special tokens); the calculator's marks <<...>> are left out; calibration: items 0 to 659
#   code           lines 41 to 120 of every second module of Python's standard library of at least 120 lines, as Debian's libpython3.11 packages install it;
#                  calibration: of the other modules
# usage: real-texts.sh DATA OUT      DATA: the shared data; PYTHON_LIB: the folder of the modules (/usr/lib/python3.11)
# OUT/texts.csv says what each is: domain,use,bytes,sha256,source. Nothing is fetched, and what is there already is made again only when it differs.
set -eu
data=$1 out=$2
: "${PYTHON_LIB:=/usr/lib/python3.11}"
export LC_ALL=C
c4=$data/corpora/c4-sample/c4_train00000_docs0-699.jsonl gsm=$data/tasks/gsm8k/test.jsonl wiki=$data/corpora/wikitext-2-raw
for f in "$c4" "$gsm" "$wiki/wiki.test.raw" "$wiki/wiki.valid.raw" "$PYTHON_LIB/argparse.py"; do
    [ -s "$f" ] || { echo "real-texts.sh: there is no $f (DATA is the shared data; PYTHON_LIB the folder of Debian's libpython3.11-minimal and -stdlib)" >&2; exit 2; }
done
mkdir -p "$out/calib"
version=$(dpkg-query -W -f '${Version}' libpython3.11-stdlib 2>/dev/null || echo "of an unknown version")

# value(line, key): the JSON string behind "key":, with its escapes undone.
json='
function hex(s,    i, v) { for (i = 1; i <= length(s); i++) v = 16 * v + index("0123456789abcdef", tolower(substr(s, i, 1))) - 1; return v }
function utf8(c) {
    if (c < 128) return sprintf("%c", c)
    if (c < 2048) return sprintf("%c%c", 192 + int(c / 64), 128 + c % 64)
    if (c < 65536) return sprintf("%c%c%c", 224 + int(c / 4096), 128 + int(c / 64) % 64, 128 + c % 64)
    return sprintf("%c%c%c%c", 240 + int(c / 262144), 128 + int(c / 4096) % 64, 128 + int(c / 64) % 64, 128 + c % 64)
}
function value(line, key,    i, c, e, s, high) {
    if (!match(line, "\"" key "\": *\"")) { print "real-texts.sh: a line has no " key > "/dev/stderr"; exit 1 }
    for (i = RSTART + RLENGTH; (c = substr(line, i, 1)) != "\"" && c != ""; i++) {
        if (c != "\\") { s = s c; continue }
        e = substr(line, ++i, 1)
        if (e == "u") {
            c = hex(substr(line, i + 1, 4))
            i += 4
            if (c >= 55296 && c < 56320) { high = c; continue }
            if (c >= 56320 && c < 57344) c = 65536 + (high - 55296) * 1024 + c - 56320
            s = s utf8(c)
        } else s = s (e == "n" ? "\n" : e == "t" ? "\t" : e == "r" ? "" : e)
    }
    return s
}'
# web FIRST LAST
web() { awk -v first="$1" -v last="$2" "$json"'NR > first && NR <= last + 1 { print value($0, "text") "\n" }' "$c4"; }
dialogue() {
    awk -v first="$1" -v last="$2" "$json"'
        NR <= first || NR > last + 1 { next }
        {
            if ((NR - first) % 3 == 1) print "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>"
            answer = value($0, "answer")
            gsub(/<<[^>]*>>/, "", answer)
            gsub(/\n#### /, "\nThe answer is ", answer)
            print "<|im_start|>user\n" value($0, "question") "<|im_end|>\n<|im_start|>assistant\n" answer ".<|im_end|>"
        }' "$gsm"
}
# code PARITY: of every second module in the order of the names
code() {
    n=0
    for f in "$PYTHON_LIB"/[a-z]*.py; do
        [ "$(wc -l < "$f")" -ge 120 ] || continue
        n=$((n + 1))
        [ $((n % 2)) -eq "$1" ] || continue
        sed -n 41,120p "$f"
    done
}
made() { # FILE COMMAND...
    file=$1; shift
    "$@" > "$file.new"
    if cmp -s "$file.new" "$file"; then rm "$file.new"; else mv "$file.new" "$file"; fi
}
made "$out/encyclopedia.txt" cat "$wiki/wiki.test.raw"
made "$out/calib/encyclopedia.txt" cat "$wiki/wiki.valid.raw"
made "$out/web.txt" web 350 699
made "$out/calib/web.txt" web 0 349
made "$out/dialogue.txt" dialogue 660 1318
made "$out/calib/dialogue.txt" dialogue 0 659
made "$out/code.txt" code 1
made "$out/calib/code.txt" code 0
{
    echo "domain,use,bytes,sha256,source"
    for d in encyclopedia web dialogue code; do
        case $d in
        encyclopedia) source="WikiText-2" ;; web) source="C4 sample" ;; dialogue) source="GSM8K in the chat template" ;;
        code) source="Python's standard library: libpython3.11 $version" ;;
        esac
        for f in "$out/$d.txt" "$out/calib/$d.txt"; do
            use=evaluation
            [ "$f" = "$out/$d.txt" ] || use=calibration
            echo "$d,$use,$(wc -c < "$f"),$(sha256sum < "$f" | cut -c1-16),$source"
        done
    done
} > "$out/texts.csv"
