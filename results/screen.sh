#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/screen.csv: what would be lost if the formats of a matrix were screened by its own error. Of every linear and table of wiki8m a format is kept
# whose logarithm of the error tr(dW H dW') / tr(W H W') (by: error; or of the KL of the option alone, by: kl) is at most `margin` above the lower convex
# hull, over bits a weight, of the other formats' logarithms. missed: of the choices of all plans of the front (layers.csv), those of formats not kept.
# usage: screen.sh [OPTIONS.csv LAYERS.csv] > screen.csv
set -eu
here=$(dirname "$0")
exec awk -F, '
function hull(u, k, v,   i, j, t, best, y) {
    best = 1e9
    for (i = 1; i <= n[u]; i++) {
        if (i == k || bits[u, i] > bits[u, k]) continue
        if (v[u, i] < best) best = v[u, i]
        for (j = 1; j <= n[u]; j++) {
            if (j == k || bits[u, j] < bits[u, k] || bits[u, j] <= bits[u, i]) continue
            t = (bits[u, k] - bits[u, i]) / (bits[u, j] - bits[u, i])
            y = v[u, i] + t * (v[u, j] - v[u, i])
            if (y < best) best = y
        }
    }
    return best
}
function screen(by, v, margin,   u, k, kept, missed) {
    for (u in n)
        for (k = 1; k <= n[u]; k++) {
            if (v[u, k] - hull(u, k, v) <= margin) kept++
            else missed += used[u, name[u, k]]
        }
    printf "%s,%g,%.2f,%d,%d\n", by, margin, kept / units, missed, choices
}
function logarithm(x) { return x > 1e-20 ? log(x) : log(1e-20) }
{ sub(/\r$/, "") }
FNR == 1 { file++; for (i = 1; i <= NF; i++) col[file, $i] = i; next }
file == 1 && $col[1, "bits_per_weight"] != "" && $col[1, "bits_per_weight"] < 15 {
    u = $col[1, "unit"]
    if (!(u in n)) units++
    k = ++n[u]
    name[u, k] = $col[1, "option"]
    bits[u, k] = $col[1, "bits_per_weight"]
    error[u, k] = logarithm($col[1, "error"])
    kl[u, k] = logarithm($col[1, "kl_nats"])
    known[u, name[u, k]] = 1
}
file == 2 && ($col[2, "unit"], $col[2, "option"]) in known { used[$col[2, "unit"], $col[2, "option"]]++; choices++ }
END {
    print "by,margin,kept_a_matrix,missed,choices"
    m = split("0 0.05 0.1 0.15 0.2 0.3", margins, " ")
    for (i = 1; i <= m; i++) screen("error", error, margins[i])
    for (i = 1; i <= m; i++) screen("kl", kl, margins[i])
}' "${1:-$here/options.csv}" "${2:-$here/layers.csv}"
