# SPDX-License-Identifier: GPL-3.0-or-later
# results/qat.svg from results/qat.csv: KL on the first text of each model against trained tokens, as a share of the KL before. gnuplot -e "model='wiki8m'; text='WikiText-2 test'; table='...'"
set datafile separator ','
set terminal svg size 760,440 font 'sans,12'
set key outside right
set logscale x
set xlabel 'tokens trained on'
set ylabel 'KL on '.text.', share of that before'
set yrange [0:1.05]
set grid
bits = system("awk -F, -v m='".model."' '$1 == m { print $2 }' ".table." | sort -un")
start(b) = real(system(sprintf("awk -F, -v m='%s' -v b=%s -v t='%s' '$1 == m && $2 == b && $3 == \"start\" && $7 == t { print $8; exit }' %s", model, b, text, table)))
rows(b, how) = sprintf("< awk -F, -v m='%s' -v b=%s -v t='%s' '$1 == m && $2 == b && $3 == \"%s\" && $7 == t' %s | sort -t, -gk6", model, b, text, how, table)
plot for [b in bits] rows(b, 'qat') using 6:($8 / start(b)) with linespoints title b.' bits', \
     for [b in bits] rows(b, 'qat+self') using 6:($8 / start(b)) with points pt 9 title b.' bits, its own writing too', \
     for [b in bits] rows(b, 'end-to-end') using 6:($8 / start(b)) with points pt 6 lc rgb 'gray' notitle
