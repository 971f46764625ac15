# SPDX-License-Identifier: GPL-3.0-or-later
# Values of a JSON that bitbudget wrote (one a line), separated by commas: awk -v get="tasks.1.reference.acc ppl" -f json.awk FILE. A path is names from the root, elements of lists by their
# number from 1. Numbers have six digits; null, and what is not there, is empty.
function path_of(name,    i, p) {
    for (i = 2; i <= depth; i++) p = p at[i] "."
    return p name
}
function opened(name) { at[++depth] = name; count[depth] = 0 }
{ line = $0; sub(/^ */, "", line); sub(/,$/, "", line) }
line == "{" || line == "[" { opened(depth ? ++count[depth] : ""); next }
line ~ /^[]}]$/ { depth--; next }
line ~ /^"[^"]*": / {
    name = line
    sub(/^"/, "", name); sub(/": .*/, "", name)
    sub(/^"[^"]*": /, "", line)
    if (line == "{" || line == "[") opened(name)
    else if (line != "{}" && line != "[]") v[path_of(name)] = line == "null" ? "" : line ~ /^"/ ? substr(line, 2, length(line) - 2) : line ~ /^-?[0-9]+[.eE]/ ? sprintf("%.6g", line) : line
    next
}
END {
    n = split(get, wanted, " ")
    for (i = 1; i <= n; i++) out = out v[wanted[i]] (i < n ? "," : "")
    print out
}
