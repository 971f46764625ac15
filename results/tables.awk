# SPDX-License-Identifier: GPL-3.0-or-later
# One table of the documents, in Markdown, from one CSV file of results/. Columns are read by name.
# usage: awk -v table=NAME [-v model=MODEL] -f results/tables.awk FILE.csv      NAME: a function show_NAME below

# The cells of a line into cell[1..n]; quoted cells may hold commas.
function split_csv(line, cell,    n, i, c, quoted) {
    n = 1
    cell[1] = ""
    quoted = 0
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (c == "\"") {
            if (quoted && substr(line, i + 1, 1) == "\"") { cell[n] = cell[n] c; i++ } else quoted = !quoted
        } else if (c == "," && !quoted) cell[++n] = ""
        else cell[n] = cell[n] c
    }
    return n
}

{ sub(/\r$/, "") }
FNR == 1 { n_columns = split_csv($0, name); for (i = 1; i <= n_columns; i++) has[name[i]] = 1; next }
{ split_csv($0, value); rows++; for (i = 1; i <= n_columns; i++) v[rows, name[i]] = value[i] }

# 1234567 -> 1,234,567
function thousands(x,    s) {
    s = sprintf("%d", x)
    while (match(s, /[0-9][0-9][0-9][0-9]($|,)/)) s = substr(s, 1, RSTART) "," substr(s, RSTART + 1)
    return s
}
# A KL with as many decimals as its size asks for.
function kl(x) { return x + 0 < 0.00095 ? sprintf("%.5f", x) : sprintf("%.4f", x) }
# Value and standard error, with the decimals of the value.
function with_se(x, se) { return kl(x) " ± " (x + 0 < 0.00095 ? sprintf("%.5f", se) : sprintf("%.4f", se)) }
function percent(x) { return sprintf("%.1f %%", 100 * x) }
# Rows of a table: cells joined by |.
function line(text) { print "| " text " |" }
function head(text,    n, i, rule, parts) {
    line(text)
    n = split(text, parts, / \| /)
    for (i = 1; i <= n; i++) rule = rule "|---"
    print rule "|"
}
# The distinct values of a column in the order of the file; returns how many. `where` empty, or a column that must have `is`.
function distinct(column, list, where, is,    i, n, seen) {
    split("", seen)
    for (i = 1; i <= rows; i++) {
        if (where != "" && v[i, where] != is || (v[i, column] in seen)) continue
        seen[v[i, column]] = 1
        list[++n] = v[i, column]
    }
    return n + 0
}
# The first row with these values, 0: none.
function row_of(c1, v1, c2, v2, c3, v3,    i) {
    for (i = 1; i <= rows; i++) if (v[i, c1] == v1 && (c2 == "" || v[i, c2] == v2) && (c3 == "" || v[i, c3] == v3)) return i
    return 0
}
function text_name(t) { return t ~ /wiki/ ? "WikiText-2 test" : t ~ /c4/ ? "C4" : t }

# ---- README: the front, full precision first ----

function show_front(    i) {
    head("bytes | bits per weight | KL, nats | perplexity | same top token | weights pruned")
    for (i = 1; i <= rows; i++)
        if (v[i, "plan_hash"] == "-") line(sprintf("%s | %.2f | %s | %.2f | | ", thousands(v[i, "size_bytes"]), v[i, "bpw"], v[i, "source"], v[i, "ppl"]))
    for (i = 1; i <= rows; i++) {
        if (v[i, "plan_hash"] == "-") continue
        line(thousands(v[i, "size_bytes"]) sprintf(" | %.2f | ", v[i, "bpw"]) with_se(v[i, "kl_nats"], v[i, "kl_se"]) sprintf(" | %.2f | ", v[i, "ppl"]) \
             percent(v[i, "top1"]) sprintf(" | %.0f %%", 100 * v[i, "pruned_fraction"]))
    }
}

# ---- README: llama.cpp's own files and our best that is no larger, all measured by llama-perplexity ----

function show_llamacpp(    i, j, best) {
    head("their file | bytes | KL | perplexity | our bytes | our KL | our perplexity | KL ratio")
    for (i = 1; i <= rows; i++)
        if (v[i, "model"] == model && v[i, "made_by"] == "source") line("F16, the source | " thousands(v[i, "size_bytes"]) sprintf(" | | %.2f | | | | ", v[i, "ppl"]))
    for (i = 1; i <= rows; i++) {
        if (v[i, "model"] != model || v[i, "made_by"] == "source" || v[i, "made_by"] == "bitbudget") continue
        best = 0
        for (j = 1; j <= rows; j++)
            if (v[j, "model"] == model && v[j, "made_by"] == "bitbudget" && v[j, "size_bytes"] + 0 <= v[i, "size_bytes"] + 0 && v[j, "chunks"] == v[i, "chunks"] && v[j, "text_sha256"] == v[i, "text_sha256"] && \
                (!best || v[j, "kl_nats"] + 0 < v[best, "kl_nats"] + 0)) best = j
        if (best)
            line((v[i, "made_by"] == "llama.cpp" ? "" : v[i, "made_by"] " ") v[i, "name"] " | " thousands(v[i, "size_bytes"]) " | " kl(v[i, "kl_nats"]) sprintf(" | %.2f | ", v[i, "ppl"]) thousands(v[best, "size_bytes"]) " | " \
                 kl(v[best, "kl_nats"]) sprintf(" | %.2f | %.2f", v[best, "ppl"], v[best, "kl_nats"] / v[i, "kl_nats"]))
    }
}

# Our engine beside llama-perplexity on our files.
function show_engines(    i) {
    head("bytes | KL, llama-perplexity | KL, bitbudget | perplexity, llama-perplexity | perplexity, bitbudget")
    for (i = 1; i <= rows; i++)
        if (v[i, "model"] == model && v[i, "bitbudget_ppl"] != "")
            line(thousands(v[i, "size_bytes"]) " | " kl(v[i, "kl_nats"]) " | " kl(v[i, "bitbudget_kl_nats"]) sprintf(" | %.3f | %.3f", v[i, "ppl"], v[i, "bitbudget_ppl"]))
}

# ---- docs/finalise.md ----

function show_finalise(    i, j, k, n, m, s, sizes, texts, steps, text, r, first, last) {
    n = distinct("budget_bpw", sizes)
    m = distinct("text", texts)
    s = distinct("step", steps)
    text = "bits | text"
    for (k = 1; k <= s; k++) text = text " | " steps[k]
    head(text " | of the start | perplexity | same top token")
    for (i = 1; i <= n; i++)
        for (j = 1; j <= m; j++) {
            text = sprintf("%.2f | %s", sizes[i], text_name(texts[j]))
            first = last = 0
            for (k = 1; k <= s; k++) {
                r = row_of("budget_bpw", sizes[i], "text", texts[j], "step", steps[k])
                text = text " | " (r ? kl(v[r, "kl_nats"]) : "")
                if (r && !first) first = r
                if (r) last = r
            }
            line(text sprintf(" | %.0f %% | %.2f → %.2f | %.1f → %.1f %%", 100 * v[last, "kl_nats"] / v[first, "kl_nats"], v[first, "ppl"], v[last, "ppl"],
                              100 * v[first, "top1"], 100 * v[last, "top1"]))
        }
}

function show_generation(    i, j, n, m, s, sizes, texts, steps, a, b) {
    n = distinct("budget_bpw", sizes)
    m = distinct("text", texts)
    s = distinct("step", steps)
    head("bits | text | agreement, tokens: " steps[1] " | " steps[s] " | KL at 1-16 | 17-64 | from 65")
    for (i = 1; i <= n; i++)
        for (j = 1; j <= m; j++) {
            a = row_of("budget_bpw", sizes[i], "text", texts[j], "step", steps[1])
            b = row_of("budget_bpw", sizes[i], "text", texts[j], "step", steps[s])
            line(sprintf("%.2f | %s | %.1f ± %.1f | %.1f ± %.1f | %s → %s | %s → %s | %s → %s", sizes[i], text_name(texts[j]), v[a, "agree_length"], v[a, "agree_length_se"],
                         v[b, "agree_length"], v[b, "agree_length_se"], kl(v[a, "kl_1_16"]), kl(v[b, "kl_1_16"]), kl(v[a, "kl_17_64"]), kl(v[b, "kl_17_64"]),
                         kl(v[a, "kl_65"]), kl(v[b, "kl_65"])))
        }
}

function show_lfq(    i, j, k, n, m, s, sizes, texts, steps, text, r) {
    n = distinct("budget_bpw", sizes)
    m = distinct("text", texts)
    s = distinct("step", steps)
    text = "bits | text"
    for (k = 1; k <= s; k++) text = text " | " steps[k]
    head(text)
    for (i = 1; i <= n; i++)
        for (j = 1; j <= m; j++) {
            text = sprintf("%.2f | %s", sizes[i], text_name(texts[j]))
            for (k = 1; k <= s; k++) {
                r = row_of("budget_bpw", sizes[i], "text", texts[j], "step", steps[k])
                text = text " | " (r ? kl(v[r, "kl_nats"]) : "")
            }
            line(text)
        }
}

# ---- docs/scores.md ----

function show_proxy(    i, j, k, n, m, s, sets, names, bands, text, r) {
    n = distinct("set", sets)
    m = distinct("proxy", names)
    s = distinct("band_bpw", bands)
    text = "set | score"
    for (k = 1; k <= s; k++) text = text sprintf(" | %.1f", bands[k])
    head(text)
    for (i = 1; i <= n; i++)
        for (j = 1; j <= m; j++) {
            text = sets[i] " | " names[j]
            for (k = 1; k <= s; k++) {
                r = row_of("set", sets[i], "proxy", names[j], "band_bpw", bands[k])
                text = text " | " (r && v[r, "tau"] != "" ? sprintf("%.2f", v[r, "tau"]) : "")
            }
            line(text)
        }
}

# ---- docs/search.md ----

function show_search(column,    i, k, n, s, sizes, methods, text, r, ours) {
    n = distinct("budget_bytes", sizes)
    s = distinct("method", methods)
    text = "bytes | ours, KL"
    for (k = 1; k <= s; k++) if (methods[k] != "ours") text = text " | " methods[k] " / ours"
    head(text)
    for (i = 1; i <= n; i++) {
        ours = row_of("budget_bytes", sizes[i], "method", "ours")
        text = thousands(sizes[i]) " | " kl(v[ours, column])
        for (k = 1; k <= s; k++) {
            if (methods[k] == "ours") continue
            r = row_of("budget_bytes", sizes[i], "method", methods[k])
            text = text " | " (r ? sprintf("%.2f", v[r, column] / v[ours, column]) : "")
        }
        line(text)
    }
}

# Each searched plan beside the simple plan of the least KL that is no larger (0.3 % count as none) and at most a tenth smaller, text by text.
function show_search_real(    i, k, best) {
    head("model | text | bytes | ours, KL | best simple plan | its bytes | its KL | ours / simple")
    for (i = 1; i <= rows; i++) {
        if (v[i, "method"] != "ours") continue
        best = 0
        for (k = 1; k <= rows; k++)
            if (v[k, "method"] != "ours" && v[k, "model"] == v[i, "model"] && v[k, "text"] == v[i, "text"] && v[k, "size_bytes"] + 0 <= 1.003 * v[i, "size_bytes"] && v[k, "size_bytes"] + 0 >= 0.9 * v[i, "size_bytes"] &&
                (!best || v[k, "kl_nats"] + 0 < v[best, "kl_nats"] + 0)) best = k
        if (best) line(v[i, "model"] " | " v[i, "text"] " | " thousands(v[i, "size_bytes"]) " | " kl(v[i, "kl_nats"]) " | " v[best, "method"] " | " thousands(v[best, "size_bytes"]) " | " kl(v[best, "kl_nats"]) \
                       sprintf(" | %.2f", v[i, "kl_nats"] / v[best, "kl_nats"]))
    }
}

# What is measured on 4 windows and searched with 1 million tokens beside 8 and 4, plan by plan in the order of the sizes.
function show_search_end(    i, j, k, n, m, s, commands, seen) {
    head("bytes | KL | before: bytes | KL | KL, ratio | tokens to search, millions | before | processor time to measure and search, s | before")
    n = distinct("command", commands)
    for (k = 1; k <= n; k++) {
        m = 0
        for (i = 1; i <= rows; i++) if (v[i, "command"] == commands[k] && v[i, "measure_windows"] == 4) seen[++m] = i
        s = 0
        for (j = 1; j <= rows; j++) {
            if (v[j, "command"] != commands[k] || v[j, "measure_windows"] != 8) continue
            i = seen[++s]
            line(thousands(v[i, "size_bytes"]) " | " with_se(v[i, "kl_nats"], v[i, "kl_se"]) " | " thousands(v[j, "size_bytes"]) " | " with_se(v[j, "kl_nats"], v[j, "kl_se"]) " | " \
                 sprintf("%.3f", v[i, "kl_nats"] / v[j, "kl_nats"]) " | " (s > 1 ? "the same search | | | " : sprintf("%.2f | %.2f | %d | %d", v[i, "tokens"] / 1e6, v[j, "tokens"] / 1e6, v[i, "measure_cpu_s"] + v[i, "search_cpu_s"], v[j, "measure_cpu_s"] + v[j, "search_cpu_s"])))
        }
    }
}

# ---- docs/quantization.md ----

# KL of small models by calibration text (a row) and text (a column).
function show_calibration_small(    i, k, n, s, sets, texts, text, r) {
    for (i = 1; i <= rows; i++) v[i, "set"] = v[i, "model"] SUBSEP v[i, "format"] SUBSEP v[i, "calibration"]
    n = distinct("set", sets)
    s = distinct("text", texts)
    text = "model | type | calibrated on"
    for (k = 1; k <= s; k++) text = text " | KL, " texts[k]
    head(text)
    for (i = 1; i <= n; i++) {
        r = row_of("set", sets[i])
        text = v[r, "model"] " | " v[r, "format"] " | " v[r, "calibration"]
        for (k = 1; k <= s; k++) { r = row_of("set", sets[i], "text", texts[k]); text = text " | " (r ? kl(v[r, "kl_nats"]) : "") }
        line(text)
    }
}

function show_database(    i, k, n, s, formats, methods, text, r, ours, theirs) {
    n = distinct("format", formats, "model", model)
    s = distinct("method", methods, "model", model)
    text = model " | bytes"
    for (k = 1; k <= s; k++) text = text " | " methods[k]
    head(text " | database / llamacpp")
    for (i = 1; i <= n; i++) {
        ours = row_of("model", model, "format", formats[i], "method", "database")
        theirs = row_of("model", model, "format", formats[i], "method", "llamacpp")
        text = formats[i] " | " thousands(v[ours, "size_bytes"])
        for (k = 1; k <= s; k++) {
            r = row_of("model", model, "format", formats[i], "method", methods[k])
            text = text " | " (r ? kl(v[r, "kl_nats"]) : "")
        }
        line(text " | " (theirs ? sprintf("%.2f", v[ours, "kl_nats"] / v[theirs, "kl_nats"]) : ""))
    }
}

function show_pruning(    i, j, n, m, units, shares, a, b, c) {
    n = distinct("unit", units)
    m = distinct("fraction", shares)
    head("unit | share | KL: cut | least squares | sequential | perplexity: cut | least squares | sequential | removed: least squares | sequential")
    for (i = 1; i <= n; i++)
        for (j = 1; j <= m; j++) {
            a = row_of("unit", units[i], "fraction", shares[j], "compensated", "no")
            b = row_of("unit", units[i], "fraction", shares[j], "compensated", "least-squares")
            c = row_of("unit", units[i], "fraction", shares[j], "compensated", "sequential")
            if (a && b && c)
                line(sprintf("%s | %s | %s | %s | %s | %.2f | %.2f | %.2f | %.0f %% | %.0f %%", units[i] == "ffn" ? "FFN channels" : "KV groups", shares[j], kl(v[a, "kl_nats"]),
                             kl(v[b, "kl_nats"]), kl(v[c, "kl_nats"]), v[a, "ppl"], v[b, "ppl"], v[c, "ppl"], 100 * v[b, "removed"], 100 * v[c, "removed"]))
        }
}

function show_rotation(    i) {
    head("model | format | method | rotation | bytes | KL | perplexity")
    for (i = 1; i <= rows; i++)
        line(v[i, "model"] " | " v[i, "format"] " | " v[i, "method"] " | " v[i, "rotation"] " | " thousands(v[i, "size_bytes"]) " | " with_se(v[i, "kl_nats"], v[i, "kl_se"]) \
             sprintf(" | %.2f", v[i, "ppl"]))
}

# KL by calibration text and options (a row) and domain (a column), their mean, and the worst domain as a multiple of it.
function show_calibration(    i, k, n, s, sets, texts, text, r, worst, sum) {
    s = distinct("text", texts)
    for (i = 1; i <= rows; i++) {
        v[i, "damping"] = v[i, "options"]
        if (!sub(/.*--damping /, "", v[i, "damping"])) v[i, "damping"] = "0.1"
        v[i, "set"] = v[i, "calibration"] SUBSEP v[i, "tokens"] SUBSEP v[i, "damping"]
    }
    n = distinct("set", sets)
    text = "calibrated on | tokens | `--damping`"
    for (k = 1; k <= s; k++) text = text " | " texts[k]
    head(text " | mean | worst / mean")
    for (i = 1; i <= n; i++) {
        worst = sum = 0
        r = row_of("set", sets[i])
        text = v[r, "calibration"] " | " thousands(v[r, "tokens"]) " | " v[r, "damping"]
        for (k = 1; k <= s; k++) {
            r = row_of("set", sets[i], "text", texts[k])
            text = text " | " (r ? sprintf("%.2f", v[r, "kl_nats"]) : "")
            if (r && v[r, "of_mean"] + 0 > worst) worst = v[r, "of_mean"] + 0
            sum += v[r, "kl_nats"]
        }
        line(text sprintf(" | %.2f | %.2f", sum / s, worst))
    }
}

# README: files of a pretrained model in the order of their bytes, judged on so many windows of so many tokens: KL and perplexity by domain as llama-perplexity sees them, or, marked, as our
# engine does where it did not; means only where all domains are there.
function show_real(ctx, chunks,    i, j, k, n, s, files, order, texts, text, r, sum, got, ppl, t, x, at, own) {
    s = distinct("text", texts, "ctx", ctx)
    text = "file | bytes | bits a weight"
    for (k = 1; k <= s; k++) text = text " | KL, " texts[k]
    head(text " | mean | same top token | perplexities")
    for (i = 1; i <= rows; i++) {
        v[i, "file"] = v[i, "model"] == model && v[i, "ctx"] == ctx && v[i, "chunks"] == chunks ? v[i, "method"] SUBSEP v[i, "size_bytes"] : ""
        if (v[i, "judge"] == "llama-perplexity" || !((v[i, "file"], v[i, "text"]) in at)) at[v[i, "file"], v[i, "text"]] = i
    }
    n = in_order_of_bytes(files, order)
    for (i = 1; i <= n; i++) {
        if (files[order[i]] == "") continue
        r = row_of("file", files[order[i]])
        text = file_name(r) " | " thousands(v[r, "size_bytes"]) sprintf(" | %.2f", v[r, "bpw"])
        sum = got = t = 0
        ppl = ""
        for (k = 1; k <= s; k++) {
            r = (files[order[i]], texts[k]) in at ? at[files[order[i]], texts[k]] : 0
            own = r && v[r, "judge"] == "bitbudget" ? "°" : ""
            text = text " | " (!r ? "" : v[r, "method"] == "F16" ? "" : kl(v[r, "kl_nats"]) own)
            if (k > 1) ppl = ppl ", "
            if (!r) { ppl = ppl "-"; continue }
            x = v[r, "ppl"]
            ppl = ppl (x + 0 > 9999 ? sprintf("%.0e", x) : sprintf("%.1f", x))
            sum += v[r, "kl_nats"]; t += v[r, "top1_percent"]; got++
        }
        line(text (got < s || files[order[i]] ~ /^F16/ ? " | | " : sprintf(" | %s | %.1f %%", kl(sum / got), t / got)) " | " ppl)
    }
}
# A file's name in a row, ours in bold.
function file_name(r) { return v[r, "method"] ~ /^ours/ ? "**" v[r, "method"] "**" : v[r, "method"] }
function bytes_of(file,    part) { split(file, part, SUBSEP); return part[2] + 0 }

# README: each file of the sweep beside the rival of the least mean KL that is no larger (0.3 % count as none), by llama-perplexity, on the domains on which both were judged.
function show_real_ratio(    i, k, n, s, files, order, texts, text, a, b, r, q, ours, theirs, got, best, ratio, best_ours, best_theirs, parts) {
    s = distinct("text", texts, "ctx", 512)
    for (i = 1; i <= rows; i++) v[i, "file"] = v[i, "judge"] == "llama-perplexity" && v[i, "model"] == model && v[i, "ctx"] == 512 && v[i, "chunks"] == 8 ? v[i, "method"] SUBSEP v[i, "size_bytes"] : ""
    n = in_order_of_bytes(files, order)
    text = "bytes | ours, mean KL | best rival that is no larger | its bytes | its mean KL | ours / rival"
    for (k = 1; k <= s; k++) text = text " | " texts[k]
    head(text)
    for (a = 1; a <= n; a++) {
        if (files[order[a]] !~ "^ours( with block-32| \\+ qat)?" SUBSEP) continue
        best = ""
        for (b = 1; b <= n; b++) {
            if (files[b] !~ /^(llama|ik_llama|AutoRound)/ || bytes_of(files[b]) > 1.003 * bytes_of(files[order[a]])) continue
            ours = theirs = got = 0
            parts = ""
            for (k = 1; k <= s; k++) {
                r = row_of("file", files[order[a]], "text", texts[k])
                q = row_of("file", files[b], "text", texts[k])
                parts = parts " | " (r && q ? sprintf("%.2f", v[r, "kl_nats"] / v[q, "kl_nats"]) : "")
                if (r && q) { ours += v[r, "kl_nats"]; theirs += v[q, "kl_nats"]; got++ }
            }
            if (got && (best == "" || ours / theirs > ratio)) { best = b; ratio = ours / theirs; best_ours = ours / got; best_theirs = theirs / got; text = parts }
        }
        if (best == "") continue
        r = row_of("file", files[best])
        line(thousands(bytes_of(files[order[a]])) (files[order[a]] ~ /block-32/ ? ", block-32" : files[order[a]] ~ /qat/ ? ", trained" : "") " | " kl(best_ours) " | " v[r, "method"] " | " thousands(v[r, "size_bytes"]) " | " kl(best_theirs) sprintf(" | %.2f", ratio) text)
    }
}

# README: zero-shot tasks, files in the order of their bytes: accuracies in per cent, the mean change against full precision on the same items over all tasks, that of the likelihood of the
# right answers, and the tasks whose accuracy is below full precision's by more than one and two standard errors of the paired difference.
function show_real_tasks(    i, j, k, n, s, files, order, tasks, text, r, sum, se, nll, nll_se, one, two) {
    s = distinct("task", tasks, "model", model)
    text = "file | bytes"
    for (k = 1; k <= s; k++) text = text " | " tasks[k]
    head(text " | mean change, points | below by more than 1, 2 errors | nll of right answers")
    text = "F16 |"
    for (k = 1; k <= s; k++) text = text sprintf(" | %.0f", 100 * v[row_of("model", model, "task", tasks[k]), "acc_full"])
    line(text " | | |")
    for (i = 1; i <= rows; i++) v[i, "file"] = v[i, "model"] == model ? v[i, "method"] SUBSEP v[i, "size_bytes"] : ""
    n = in_order_of_bytes(files, order)
    for (i = 1; i <= n; i++) {
        if (files[order[i]] == "") continue
        sum = se = nll = nll_se = one = two = 0
        r = row_of("file", files[order[i]])
        text = file_name(r) " | " thousands(v[r, "size_bytes"])
        for (k = 1; k <= s; k++) {
            r = row_of("file", files[order[i]], "task", tasks[k])
            if (!r) break
            text = text sprintf(" | %.0f", 100 * v[r, "acc"])
            sum += v[r, "acc_difference"]; se += v[r, "acc_difference_se"] ^ 2; nll += v[r, "nll_difference"]; nll_se += v[r, "nll_difference_se"] ^ 2
            one += -v[r, "acc_difference"] > v[r, "acc_difference_se"] + 1e-9
            two += -v[r, "acc_difference"] > 2 * v[r, "acc_difference_se"] + 1e-9
        }
        if (k > s) line(text sprintf(" | %.1f ± %.1f | %d, %d | %+.2f ± %.2f", 100 * sum / s, 100 * sqrt(se) / s, one, two, nll / s, sqrt(nll_se) / s))
    }
}
# The distinct files in `files`, and in `order` their numbers by bytes; returns how many.
function in_order_of_bytes(files, order,    i, j, n, t) {
    n = distinct("file", files)
    for (i = 1; i <= n; i++) order[i] = i
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && bytes_of(files[order[j]]) < bytes_of(files[order[j - 1]]); j--) { t = order[j]; order[j] = order[j - 1]; order[j - 1] = t }
    return n
}

# README: greedy decoding, all texts together: prompts, the share of them that leave full precision's text, the tokens before they do (all of the continuation where they do not).
function show_real_greedy(    i, k, n, s, files, order, texts, text, r, prompts, different, same, se) {
    s = distinct("text", texts, "model", model)
    text = "file | bytes | prompts | they leave full precision's text | same tokens before, of 32"
    for (k = 1; k <= s; k++) text = text " | " texts[k]
    head(text)
    for (i = 1; i <= rows; i++) v[i, "file"] = v[i, "model"] == model ? v[i, "method"] SUBSEP v[i, "size_bytes"] : ""
    n = in_order_of_bytes(files, order)
    for (i = 1; i <= n; i++) {
        if (files[order[i]] == "") continue
        prompts = different = same = se = 0
        text = ""
        for (k = 1; k <= s; k++) {
            r = row_of("file", files[order[i]], "text", texts[k])
            if (!r) break
            prompts += v[r, "prompts"]; different += v[r, "prompts"] * v[r, "different"]; same += v[r, "prompts"] * v[r, "same_tokens"]; se += (v[r, "prompts"] * v[r, "same_tokens_se"]) ^ 2
            text = text sprintf(" | %.1f", v[r, "same_tokens"])
        }
        if (k <= s) continue
        line(file_name(r) " | " thousands(v[r, "size_bytes"]) " | " prompts sprintf(" | %.1f %% | %.1f ± %.1f", 100 * different / prompts, same / prompts, sqrt(se) / prompts) text)
    }
}

# Low-bit training: a row a file, its KL on each text beside that of the start; sorted by bits, then tokens.
function show_qat(    i, j, k, n, s, files, order, texts, text, at, row, how) {
    s = distinct("text", texts, "model", model)
    for (i = 1; i <= rows; i++) {
        if (v[i, "model"] != model) continue
        k = v[i, "plan_bpw"] SUBSEP v[i, "method"] SUBSEP v[i, "estimator"] SUBSEP v[i, "schedule"] SUBSEP v[i, "tokens"]
        if (!(k in row)) { row[k] = i; files[++n] = k; order[n] = n }
        at[k, v[i, "text"]] = i
    }
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && qat_order(files[order[j]]) < qat_order(files[order[j - 1]]); j--) { k = order[j]; order[j] = order[j - 1]; order[j - 1] = k }
    text = "bits | trained by | tokens"
    for (k = 1; k <= s; k++) text = text " | " texts[k]
    head(text " | perplexity, " texts[1] " | same top token | processor time")
    for (i = 1; i <= n; i++) {
        k = files[order[i]]
        split(k, how, SUBSEP)
        text = how[1] " | " (how[2] == "start" ? "not at all | " : how[2] (how[2] ~ /^qat/ ? ", " how[3] ", " how[4] : "") " | " thousands(how[5]))
        for (j = 1; j <= s; j++) text = text " | " ((k, texts[j]) in at ? kl(v[at[k, texts[j]], "kl_nats"]) : "")
        line(text sprintf(" | %.2f | %.1f %% | %s", v[row[k], "ppl"], 100 * v[row[k], "top1"], v[row[k], "seconds"] > 0 ? v[row[k], "seconds"] " s" : ""))
    }
}
function qat_order(k,    how) { split(k, how, SUBSEP); return how[1] * 1e12 + how[5] * 100 + (how[2] ~ /^qat/) * 10 + (how[2] ~ /self/) * 4 + (how[3] == "differentiable") + 2 * (how[4] == "wsd") }

# The lattice beside other types: a row a file, by bytes, then as they were made.
function show_lattice(    i, j, k, n, s, files, order, texts, text, at, row, r) {
    s = distinct("text", texts, "model", model)
    for (i = 1; i <= rows; i++) {
        if (v[i, "model"] != model) continue
        k = v[i, "type"] SUBSEP v[i, "method"] SUBSEP v[i, "damping"] SUBSEP v[i, "estimator"] SUBSEP v[i, "tokens"]
        if (!(k in row)) { row[k] = i; files[++n] = k; order[n] = n }
        at[k, v[i, "text"]] = i
    }
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && lattice_order(row[files[order[j]]]) < lattice_order(row[files[order[j - 1]]]); j--) { k = order[j]; order[j] = order[j - 1]; order[j - 1] = k }
    text = "type | bytes | bits a weight of linears | made by | damping | trained on"
    for (k = 1; k <= s; k++) text = text " | " text_name(texts[k])
    head(text " | perplexity, " text_name(texts[1]) " | same top token")
    for (i = 1; i <= n; i++) {
        k = files[order[i]]
        r = row[k]
        text = v[r, "type"] " | " thousands(v[r, "bytes"]) sprintf(" | %.3f | ", v[r, "bpw_linears"]) v[r, "method"] " | " v[r, "damping"] " | " \
               (v[r, "tokens"] > 0 ? thousands(v[r, "tokens"]) ", " v[r, "estimator"] : "")
        for (j = 1; j <= s; j++) text = text " | " ((k, texts[j]) in at ? with_se(v[at[k, texts[j]], "kl_nats"], v[at[k, texts[j]], "kl_se"]) : "")
        line(text sprintf(" | %.2f | %.1f %%", v[r, "ppl"], 100 * v[r, "top1"]))
    }
}
function lattice_order(r) { return v[r, "bytes"] * 1e9 + (v[r, "type"] == "TQ2_0") * 1e8 + (v[r, "method"] == "feedback") * 2e6 + (v[r, "method"] == "sequential") * 4e6 + v[r, "damping"] * 1e6 + v[r, "tokens"] + (v[r, "estimator"] == "differentiable") }

# Any table as it is.
function show_all(    i, k, text) {
    for (k = 1; k <= n_columns; k++) text = text (k > 1 ? " | " : "") name[k]
    head(text)
    for (i = 1; i <= rows; i++) {
        text = ""
        for (k = 1; k <= n_columns; k++) text = text (k > 1 ? " | " : "") v[i, name[k]]
        line(text)
    }
}

END {
    if (table == "front") show_front()
    else if (table == "llamacpp") show_llamacpp()
    else if (table == "engines") show_engines()
    else if (table == "finalise") show_finalise()
    else if (table == "generation") show_generation()
    else if (table == "lfq") show_lfq()
    else if (table == "proxy") show_proxy()
    else if (table == "search") show_search("kl_nats")
    else if (table == "search_finished") show_search("finished_kl_nats")
    else if (table == "search_real") show_search_real()
    else if (table == "database") show_database()
    else if (table == "pruning") show_pruning()
    else if (table == "rotation") show_rotation()
    else if (table == "real") show_real(512, 8)
    else if (table == "real_2048") show_real(2048, 2)
    else if (table == "real_long") show_real(512, 98)
    else if (table == "real_tasks") show_real_tasks()
    else if (table == "real_greedy") show_real_greedy()
    else if (table == "real_ratio") show_real_ratio()
    else if (table == "calibration") show_calibration()
    else if (table == "calibration_small") show_calibration_small()
    else if (table == "search_end") show_search_end()
    else if (table == "qat") show_qat()
    else if (table == "lattice") show_lattice()
    else if (table == "all") show_all()
    else { print "tables.awk: there is no table " table > "/dev/stderr"; exit 1 }
}
