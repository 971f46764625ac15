# SPDX-License-Identifier: GPL-3.0-or-later
# results/toga.svg from results/toga-policy.csv (`bitbudget toga --policy`): the share of columns that TOGA-q's masks set high, by block and linear.
# usage: gnuplot results/toga.gp
set terminal svg size 640,380 font "sans,13" background rgb "white"
set output "results/toga.svg"
set xlabel "block"
set cblabel "share of columns of high precision"
set palette defined (0 "#ffffff", 1 "#7030a0")
set cbrange [0:*]
set yrange [6.5:-0.5]
set xrange [-0.5:7.5]
set xtics 1
set ytics ("attn\\_q" 0, "attn\\_k" 1, "attn\\_v" 2, "attn\\_output" 3, "ffn\\_gate" 4, "ffn\\_up" 5, "ffn\\_down" 6)
unset key
cells = "< tr -d '\\r' < results/toga-policy.csv | awk -F, 'NR > 1 { split($2, w, \" \"); n = index(\"attn_q attn_k attn_v attn_o ffn_ga ffn_up ffn_do\", substr(w[1], 1, 6)); print $1, int((n - 1) / 7), $4 / $3 }'"
plot cells using 1:2:3 with image pixels, cells using 1:2:(sprintf("%.2f", $3)) with labels font ",10"
