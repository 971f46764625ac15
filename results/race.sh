#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/race.csv: what a race over the options of a run would save. All options are measured on the first window; on the others only formats that can still be chosen at one of
# the sizes: for a Lagrange multiplier between the size's own over `reach` and times it, cost + multiplier bytes is behind the best format of the matrix by no more than `margin`
# standard errors of the difference of the two, each with an independent relative error of `noise`. Structures count as kept nowhere: they are some 40 options.
# kept, kept_blocks: share of the formats that stay, and of the blocks of network that measuring them runs; left_2, left_8: share of the stage's blocks that a race of that many
# windows runs, where those that stay are not run on the first window again.
# usage: race.sh MODEL TABLE.csv SIZE[,SIZE...] ... >> race.csv        (options.csv or sensitivity.csv of a run; each list of sizes is a group of rows)
set -eu
model=$1 options=$2
shift 2
for sizes; do
    awk -F, -v model="$model" -v sizes="$sizes" '
function value(u, k, m) { return kl[u, k] + m * bytes[u, k] }
function best(u, m,   k, b) {
    b = 1
    for (k = 2; k <= n[u]; k++) if (value(u, k, m) < value(u, b, m)) b = k
    return b
}
function size_at(m,   u, sum) {
    for (u in n) sum += bytes[u, best(u, m)]
    return sum
}
function multiplier(size,   low, high, middle, i) {
    low = 1e-14; high = 1
    for (i = 0; i < 60; i++) {
        middle = sqrt(low * high)
        if (size_at(middle) > size) low = middle
        else high = middle
    }
    return high
}
function race(noise, margin, reach,   i, step, m, u, k, b, kept, run, stays) {
    for (i = 1; i <= n_sizes; i++)
        for (step = -4; step <= 4; step++) {
            m = own[i] * exp(log(reach) * step / 4)
            for (u in n) {
                b = best(u, m)
                for (k = 1; k <= n[u]; k++)
                    if (value(u, k, m) - value(u, b, m) <= margin * noise * sqrt(kl[u, k] ^ 2 + kl[u, b] ^ 2)) stays[u, k] = 1
            }
        }
    for (u in n) for (k = 1; k <= n[u]; k++) if ((u, k) in stays) { kept++; run += blocks - layer[u] }
    run /= all
    printf "%s,%d,%d,%g,%g,%g,%.3f,%.3f,%.3f,%.3f\n", model, options, n_sizes, noise, margin, reach, kept / options, run, 1 / 2 + run / 2, 1 / 8 + run * 7 / 8
}
{ sub(/\r$/, "") }
FNR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
$col["bytes"] > 0 {
    u = $col["unit"]
    k = ++n[u]
    options++
    bytes[u, k] = $col["bytes"]
    kl[u, k] = $col["kl_nats"] > 0 ? $col["kl_nats"] : 0
    split(u, part, ".")
    layer[u] = part[1] == "blk" ? part[2] : 0
    if (layer[u] + 1 > blocks) blocks = layer[u] + 1
}
END {
    for (u in n) all += n[u] * (blocks - layer[u])
    n_sizes = split(sizes, size, ",")
    for (i = 1; i <= n_sizes; i++) own[i] = multiplier(size[i])
    race(0.1, 1, 1.25)
    race(0.1, 2, 1.5)
    race(0.2, 1, 1.25)
    race(0.2, 2, 1.5)
}' "$options"
done
