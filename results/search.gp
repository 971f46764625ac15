# SPDX-License-Identifier: GPL-3.0-or-later
# results/search.svg from results/search.csv: the KL of each method as a multiple of ours, at each size. usage: gnuplot results/search.gp
set terminal svg size 760,460 font "sans,13" background rgb "white"
set output "results/search.svg"
set logscale y
set yrange [0.8:*]
set ytics (0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 4, 5)
set xlabel "file size, MB"
set ylabel "KL to full precision / ours (test text)"
set grid ytics lc rgb "#dddddd"
set key top right
methods = system("tail -n +2 results/search.csv | cut -d, -f2 | grep -v ours | sort -u")
rows(m) = sprintf("< awk -F, '$2 == \"ours\" { o[$1] = $3 } $2 == \"%s\" { print $1 / 1e6, $3 / o[$1], $4 / o[$1] }' results/search.csv", m)
plot 1 lw 3 lc rgb "#7030a0" title "ours", \
     for [i = 1:words(methods)] rows(word(methods, i)) with yerrorlines pt 7 ps 0.5 lw 1.5 lc i + 1 title word(methods, i)
