# SPDX-License-Identifier: GPL-3.0-or-later
# The fronts of results/real.csv by domain: KL against bytes, ours and llama.cpp's files. From the root: gnuplot results/real.gp
set terminal svg size 960,760 background "white"
set output "results/real.svg"
set datafile separator ","
set logscale y
set xlabel "file, MB"
set ylabel "KL from F16, nats a token"
set key top right font ",9"
set grid
set multiplot layout 2,2
# By llama-perplexity, where it judged the file, else by our engine.
pick(domain, who) = sprintf("< awk -F, '$1 == \"SmolLM2-135M\" && $7 == 512 && $6 == \"%s\" && $2 ~ /^%s/ { k = $2 $3; if ($5 != \"bitbudget\" || !(k in kl)) { at[k] = $3; kl[k] = $11 } } \
END { for (k in kl) print at[k] \",\" kl[k] }' results/real.csv | sort -n", domain, who)
do for [domain in "encyclopedia web dialogue code"] {
    set title domain
    plot pick(domain, "ours$") using ($1 / 1e6):2 with linespoints pt 7 lw 2 lc rgb "#1f77b4" title "bitbudget", \
         pick(domain, "ours . qat$") using ($1 / 1e6):2 with points pt 5 ps 1.2 lc rgb "#2ca02c" title "bitbudget, trained (qat)", \
         pick(domain, "ours without") using ($1 / 1e6):2 with points pt 6 lc rgb "#1f77b4" title "bitbudget without search", \
         pick(domain, "llama.cpp") using ($1 / 1e6):2 with points pt 9 lc rgb "#d62728" title "llama.cpp"
}
unset multiplot
