/* SPDX-License-Identifier: GPL-3.0-or-later
 * report.c: see report.h. The page is written so that it is well-formed XML as well as HTML. */
#include "cli/report/report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/report/report_internal.h"
#include "engine/version.h"

/* ---- text ---- */

/* Bytes of the UTF-8 character at s; 0 when it is none (surrogates, overlong forms and what XML 1.0 forbids included). */
static size_t character(const unsigned char *s)
{
    static const unsigned least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t                n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    unsigned              code = n == 1 ? s[0] : n ? s[0] & (0x7fu >> n) : 0;
    if (n == 1) return s[0] >= 32 || s[0] == '\t' || s[0] == '\n' || s[0] == '\r' ? 1 : 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    return n && code >= least[n] && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) && code != 0xfffe && code != 0xffff ? n : 0;
}

void bb_html_text(bb_text *out, const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t n = character(s);
        if (n == 0) bb_text_add(out, "\xef\xbf\xbd");
        else if (*s == '<') bb_text_add(out, "&lt;");
        else if (*s == '>') bb_text_add(out, "&gt;");
        else if (*s == '&') bb_text_add(out, "&amp;");
        else if (*s == '"') bb_text_add(out, "&quot;");
        else if (*s == '\'') bb_text_add(out, "&#39;");
        else bb_text_addn(out, (const char *)s, n);
        s += n ? n : 1;
    }
}

/* A right-aligned cell with a fixed number of decimals; the exact value is in data-value. NaN is an empty cell. */
static void add_number(bb_text *out, double v, double scale, int decimals, const char *unit)
{
    if (isnan(v)) bb_text_add(out, "<td class=\"n\"></td>");
    else bb_text_addf(out, "<td class=\"n\" data-value=\"%.9g\">%.*f%s</td>", v, decimals, scale * v, unit);
}

static void add_error(bb_text *out, double v, int decimals)
{
    if (isnan(v)) bb_text_add(out, "<td class=\"se\"></td>");
    else bb_text_addf(out, "<td class=\"se\" data-value=\"%.9g\">&#177; %.*f</td>", v, decimals, v);
}

static void add_size(bb_text *out, int64_t bytes)
{
    char size[32];
    bb_format_size(bytes > 0 ? (uint64_t)bytes : 0, size);
    bb_text_addf(out, "<td class=\"n\">%s</td><td class=\"n\">%lld</td>", size, (long long)bytes);
}

static int perplexity_decimals(const bb_scored *s, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(s[i].ppl)) largest = fmax(largest, s[i].ppl);
    return largest >= 1000 ? 1 : 3;
}

static void add_scores(bb_text *out, const bb_scored *s, int ppl_decimals)
{
    add_size(out, s->size_bytes);
    add_number(out, s->bpw, 1, 3, "");
    add_number(out, s->kl, 1, 5, "");
    add_error(out, s->kl_se, 5);
    add_number(out, s->ppl, 1, ppl_decimals, "");
    add_error(out, s->ppl_se, ppl_decimals);
    add_number(out, s->top1, 100, 1, " %");
}

static const char score_heads[] = "<th class=\"n\">size</th><th class=\"n\">bytes</th><th class=\"n\">bits/weight</th><th class=\"n\">KL, nats</th><th></th>"
                                  "<th class=\"n\">perplexity</th><th></th><th class=\"n\">same top-1</th>";

/* outside: names of what lies right of the plot, or NULL. */
static void add_figure(bb_text *out, const char *svg, const char *caption, const char *outside)
{
    if (!svg) return;
    bb_text_add(out, "<figure>");
    bb_text_add(out, svg);
    bb_text_addf(out, "<figcaption>%s", caption);
    if (outside) {
        bb_text_add(out, " Right of the plot: ");
        bb_html_text(out, outside);
        bb_text_add(out, ".");
    }
    bb_text_add(out, "</figcaption></figure>\n");
}

/* ---- sections ---- */

void bb_section_begin(bb_text *out, const char *id, const char *nav, const char *title)
{
    bb_text_addf(out, "<section id=\"%s\" data-nav=\"%s\"><h2>%s</h2>\n", id, nav, title);
}

/* The navigation, from the sections of the page: text of files never holds a bare '<', so what looks like a section is one. */
static void add_navigation(bb_text *out, const char *body)
{
    static const char begin[] = "<section id=\"", nav[] = "\" data-nav=\"";
    bb_text_add(out, "<nav>");
    for (const char *p = body; (p = strstr(p, begin));) {
        const char *id = p + sizeof begin - 1, *label = strstr(id, nav) + sizeof nav - 1;
        bb_text_addf(out, "<a href=\"#%.*s\">%.*s</a>", (int)strcspn(id, "\""), id, (int)strcspn(label, "\""), label);
        p = label;
    }
    bb_text_add(out, "</nav>");
}

/* ---- head ---- */

static const bb_scored *chosen(const bb_artefacts *a)
{
    const char *plan = bb_chosen_plan(a);
    for (size_t i = 0; plan && i < a->n_front; i++)
        if (strcmp(a->front[i].name, plan) == 0) return &a->front[i];
    return NULL;
}

static void add_card(bb_text *out, const char *value, const char *label)
{
    bb_text_addf(out, "<div class=\"card\"><b>%s</b><span>%s</span></div>\n", value, label);
}

static void label_with_error(char *label, size_t size, const char *what, double se)
{
    if (isnan(se)) snprintf(label, size, "%s", what);
    else snprintf(label, size, "%s (&#177; %.2g)", what, se);
}

static void add_cards(bb_text *out, const bb_artefacts *a)
{
    const bb_scored *s = chosen(a);
    char             value[64], label[96], size[32];
    if (!s) return;
    bb_text_add(out, "<div class=\"cards\">\n");
    bb_format_size(s->size_bytes > 0 ? (uint64_t)s->size_bytes : 0, size);
    snprintf(label, sizeof label, "size (%lld bytes)", (long long)s->size_bytes);
    add_card(out, size, label);
    snprintf(value, sizeof value, "%.3f", s->bpw);
    if (!isnan(s->bpw)) add_card(out, value, "bits per weight");
    snprintf(value, sizeof value, "%.4g", s->kl);
    label_with_error(label, sizeof label, "KL, nats a token", s->kl_se);
    if (!isnan(s->kl)) add_card(out, value, label);
    snprintf(value, sizeof value, "%.3f", s->ppl);
    label_with_error(label, sizeof label, "perplexity", s->ppl_se);
    if (!isnan(s->ppl)) add_card(out, value, label);
    snprintf(value, sizeof value, "%.1f %%", 100 * s->top1);
    if (!isnan(s->top1)) add_card(out, value, "same top-1 token");
    snprintf(value, sizeof value, "%.1f %%", 100 * s->pruned);
    if (!isnan(s->pruned)) add_card(out, value, "of the weights pruned");
    bb_text_add(out, "</div>\n");
}

static void add_head(bb_text *out, const bb_artefacts *a, const char *body)
{
    const char      *model = json_string_value(json_object_get(a->env, "model"));
    const bb_scored *s = chosen(a);
    bb_text_add(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    bb_html_text(out, a->run_name);
    bb_text_add(out, " &#8211; bitbudget</title>\n<style>\n");
    for (size_t i = 0; bb_report_css[i]; i++) bb_text_add(out, bb_report_css[i]);
    bb_text_add(out, "</style></head>\n<body><main>\n<header><h1>");
    bb_html_text(out, a->run_name);
    bb_text_add(out, "</h1>\n");
    if (model) {
        bb_text_add(out, "<p class=\"sub\">model: <code>");
        bb_html_text(out, model);
        bb_text_add(out, "</code></p>\n");
    }
    bb_text_addf(out, "<p class=\"sub\">%zu plan%s, %zu baseline%s", a->n_front, bb_plural(a->n_front), a->n_baselines, bb_plural(a->n_baselines));
    if (s) {
        bb_text_add(out, "; shown here: plan <code>");
        bb_html_text(out, s->name);
        bb_text_add(out, "</code>");
    }
    bb_text_add(out, "</p>\n");
    add_navigation(out, body);
    bb_text_add(out, "</header>\n");
    add_cards(out, a);
}

/* ---- front and baselines ---- */

static void add_front(bb_text *out, const bb_artefacts *a, const bb_plots *p)
{
    const bb_scored *best = chosen(a);
    int              decimals = perplexity_decimals(a->front, a->n_front);
    bb_section_begin(out, "front", "Front", "The front");
    add_figure(out, p->svg[BB_PLOT_FRONT], "KL divergence to the original model against the size of the file; bars are one standard error.", p->outside.data);
    add_figure(out, p->svg[BB_PLOT_PERPLEXITY], "Perplexity against the size of the file; bars are one standard error.", NULL);
    bb_text_addf(out, "<div class=\"wide\"><table class=\"data\"><thead><tr><th>plan</th>%s<th class=\"n\">pruned</th><th>found by</th></tr></thead><tbody>\n",
                 score_heads);
    for (size_t i = 0; i < a->n_front; i++) {
        const bb_scored *s = &a->front[i];
        bb_text_addf(out, "<tr%s><td><code>", s == best ? " class=\"chosen\"" : a->on_front[i] ? "" : " class=\"under\"");
        bb_html_text(out, s->name);
        bb_text_add(out, "</code></td>");
        add_scores(out, s, decimals);
        add_number(out, s->pruned, 100, 1, " %");
        bb_text_add(out, "<td class=\"t\">");
        bb_html_text(out, s->source);
        bb_text_add(out, "</td></tr>\n");
    }
    if (a->original.name) {
        bb_text_add(out, "<tr class=\"original\"><td>original</td>");
        add_scores(out, &a->original, decimals);
        add_number(out, a->original.pruned, 100, 1, " %");
        bb_text_add(out, "<td class=\"t\">");
        bb_html_text(out, a->original.source);
        bb_text_add(out, "</td></tr>\n");
    }
    bb_text_add(out, "</tbody></table></div>\n<p class=\"note\">Highlighted: the plan shown above. Grey: another plan is no larger and closer to the model.");
    if (a->original.name) bb_text_add(out, " Original: the model that was compressed, on the same windows.");
    bb_text_add(out, "</p></section>\n");
}

/* The best plan that is no larger than the baseline; NULL when every plan is larger. */
static const bb_scored *rival(const bb_artefacts *a, const bb_scored *baseline)
{
    const bb_scored *best = NULL;
    for (size_t i = 0; i < a->n_front && a->front[i].size_bytes <= baseline->size_bytes; i++)
        if (!isnan(a->front[i].kl) && (!best || a->front[i].kl < best->kl)) best = &a->front[i];
    return best;
}

static void add_baselines(bb_text *out, const bb_artefacts *a)
{
    int decimals = perplexity_decimals(a->baselines, a->n_baselines);
    if (a->n_baselines == 0) return;
    bb_section_begin(out, "baselines", "Baselines", "Baselines");
    bb_text_addf(out,
                 "<div class=\"wide\"><table class=\"data\"><thead><tr><th>name</th>%s"
                 "<th>best plan no larger</th><th class=\"n\">its KL</th></tr></thead><tbody>\n",
                 score_heads);
    for (size_t i = 0; i < a->n_baselines; i++) {
        const bb_scored *b = &a->baselines[i], *r = rival(a, b);
        bb_text_add(out, "<tr><td class=\"t\">");
        bb_html_text(out, b->name);
        bb_text_add(out, "</td>");
        add_scores(out, b, decimals);
        bb_text_add(out, "<td>");
        if (r && b->kl > 0) { /* the reference itself, whose KL is zero, has no multiple */
            bb_text_add(out, "<code>");
            bb_html_text(out, r->name);
            bb_text_addf(out, "</code></td><td class=\"n %s\">&#215; %.3g</td></tr>\n", r->kl <= b->kl ? "better" : "worse", r->kl / b->kl);
        } else {
            bb_text_add(out, "</td><td class=\"n\"></td></tr>\n");
        }
    }
    bb_text_add(out, "</tbody></table></div>\n<p class=\"note\">The last column is the KL of the best plan of this run that is no larger, as a multiple of the "
                     "baseline's.</p></section>\n");
}

/* ---- guard ---- */

static double number_or_nan(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static void add_verdict(bb_text *out, const json_t *guard)
{
    const char   *winner = json_string_value(json_object_get(guard, "winner")), *simple = json_string_value(json_object_get(guard, "best_simple_plan"));
    const json_t *won = json_object_get(guard, "searched_plan_won");
    double        margin = number_or_nan(guard, "margin_nats"), se = number_or_nan(guard, "margin_se"), target = number_or_nan(guard, "target_bytes");
    bb_text_addf(out, "<p class=\"verdict%s\">The winner is <b>", json_is_false(won) ? " lost" : "");
    bb_html_text(out, winner ? winner : "not named");
    bb_text_add(out, "</b>");
    if (json_is_boolean(won)) bb_text_addf(out, ", %s", json_is_true(won) ? "the searched plan" : "a simpler plan: the search did not pay here");
    if (target > 0) bb_text_addf(out, ", among plans of at most %.0f bytes", target);
    bb_text_add(out, ".");
    if (!isnan(margin)) {
        bb_text_add(out, " Margin over the best ");
        bb_text_add(out, simple ? "simpler plan, " : "other plan");
        bb_html_text(out, simple ? simple : "");
        bb_text_addf(out, ": <b>%.5f", margin);
        if (!isnan(se)) bb_text_addf(out, " &#177; %.5f", se);
        bb_text_add(out, "</b> nats a token.");
    }
    bb_text_add(out, "</p>\n");
}

static void add_guard(bb_text *out, const json_t *guard)
{
    const json_t *plans = json_object_get(guard, "plans");
    const char   *winner = json_string_value(json_object_get(guard, "winner"));
    if (!guard) return;
    bb_section_begin(out, "guard", "Guard", "The guard: the winner beside simpler plans of the same bytes");
    add_verdict(out, guard);
    bb_text_add(out, "<div class=\"wide\"><table class=\"data\"><thead><tr><th>plan</th><th class=\"n\">size</th><th class=\"n\">bytes</th><th class=\"n\">KL, "
                     "nats</th><th></th></tr></thead><tbody>\n");
    for (size_t i = 0; i < json_array_size(plans); i++) {
        const json_t *p = json_array_get(plans, i);
        const char   *name = json_string_value(json_object_get(p, "name"));
        bb_text_addf(out, "<tr%s><td class=\"t\">", name && winner && strcmp(name, winner) == 0 ? " class=\"chosen\"" : "");
        bb_html_text(out, name ? name : "");
        bb_text_add(out, "</td>");
        add_size(out, (int64_t)json_integer_value(json_object_get(p, "size_bytes")));
        add_number(out, number_or_nan(p, "kl_nats"), 1, 5, "");
        add_error(out, number_or_nan(p, "kl_se"), 5);
        bb_text_add(out, "</tr>\n");
    }
    bb_text_add(out, "</tbody></table></div></section>\n");
}

/* ---- settings ---- */

static void add_json_rows(bb_text *out, json_t *object, const char *prefix, int depth)
{
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        bb_text name = { 0 };
        json_t *value = json_object_iter_value(at);
        bb_text_addf(&name, "%s%s%s", prefix, *prefix ? "." : "", json_object_iter_key(at));
        if (name.status != BB_OK) {
            out->status = name.status;
        } else if (json_is_object(value) && depth < 4) {
            add_json_rows(out, value, name.data, depth + 1);
        } else {
            char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
            bb_text_add(out, "<tr><td>");
            bb_html_text(out, name.data);
            bb_text_add(out, "</td><td class=\"t\"><code>");
            bb_html_text(out, text ? text : json_is_string(value) ? json_string_value(value) : "");
            bb_text_add(out, "</code></td></tr>\n");
            free(text);
        }
        bb_text_done(&name);
    }
}

static void add_settings(bb_text *out, const bb_artefacts *a)
{
    if (!a->config && !a->env) return;
    bb_section_begin(out, "settings", "Settings", "How this was made");
    if (a->env) {
        bb_text_add(out, "<details><summary>Environment</summary><div class=\"wide\"><table class=\"data\"><tbody>\n");
        add_json_rows(out, a->env, "", 0);
        bb_text_add(out, "</tbody></table></div></details>\n");
    }
    if (a->config) {
        bb_text_add(out, "<details><summary>Configuration, as resolved</summary><pre>");
        bb_html_text(out, a->config);
        bb_text_add(out, "</pre></details>\n");
    }
    bb_text_add(out, "</section>\n");
}

/* ---- page ---- */

static void add_plot_section(bb_text *out, const char *svg, const char *id, const char *nav, const char *title, const char *caption)
{
    if (!svg) return;
    bb_section_begin(out, id, nav, title);
    add_figure(out, svg, caption, NULL);
    bb_text_add(out, "</section>\n");
}

static bb_status make_body(bb_text *out, const bb_artefacts *a, const bb_plots *p, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_about_html(out, a, err));
    add_front(out, a, p);
    add_guard(out, a->guard);
    add_baselines(out, a);
    BB_TRY(bb_map_html(out, a, err));
    BB_TRY(bb_search_html(out, a, p, err));
    add_plot_section(out, p->svg[BB_PLOT_SENSITIVITY], "sensitivity", "Sensitivity", "Sensitivity",
                     "KL of the model when one unit alone takes an option, all else as it was; of options with the same bits the best. One line a block, "
                     "from the first (blue) to the last (orange). Values at or below zero lie on the lower edge.");
    add_plot_section(out, p->svg[BB_PLOT_CONVERGENCE], "convergence", "Convergence", "Convergence of the search",
                     "KL of the best plan against the search's step.");
    add_plot_section(
        out, p->svg[BB_PLOT_SCORED], "scored", "Scored plans", "Every plan that the search scored",
        "One point a plan, by the most windows that it was scored on; plans.csv has them all, and `bitbudget export RUN --plan HASH` writes any of them.");
    add_settings(out, a);
done:
    return status;
}

/* The head names the sections of the body, so the body is made first. */
static bb_status make_page(bb_text *out, const bb_artefacts *a, const bb_plots *p, bb_err *err)
{
    bb_text   body = { 0 };
    bb_status status = make_body(&body, a, p, err);
    if (status != BB_OK) goto done;
    if (body.status != BB_OK) {
        status = BB_FAIL(err, body.status, "out of memory while the report was written");
        goto done;
    }
    add_head(out, a, body.data);
    bb_text_addn(out, body.data, body.size);
    bb_text_addf(out,
                 "<footer class=\"note\">bitbudget %s. Made from the files beside this page: front.csv, baselines.csv, layers.csv, sensitivity.csv, "
                 "convergence.csv, plans.csv, certificate.csv, crossover.csv, speed.csv, search.csv, guard.json, env.json, config.resolved.yaml; plots/ has "
                 "the data and scripts of the plots.</footer>\n</main></body></html>\n",
                 BB_VERSION);
    if (out->status != BB_OK) status = BB_FAIL(err, out->status, "out of memory while the report was written");
done:
    bb_text_done(&body);
    return status;
}

bb_status bb_report_write(const char *run_dir, bb_err *err)
{
    bb_artefacts a = { 0 };
    bb_plots     plots = { 0 };
    bb_text      page = { 0 };
    char        *path = NULL;
    bb_progress  progress;
    bb_status    status;
    bb_progress_start(&progress, "report", 0);
    BB_TRY(bb_artefacts_read(run_dir, &a, err));
    BB_TRY(bb_plots_draw(&a, &plots, err));
    BB_TRY(make_page(&page, &a, &plots, err));
    if (!(path = bb_asprintf(err, "%s/report.html", run_dir))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_file_write(path, page.data, page.size, err));
    bb_progress_end(&progress);
done:
    bb_free(path);
    bb_text_done(&page);
    bb_plots_done(&plots);
    bb_artefacts_done(&a);
    return status;
}
