/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_report.c: the report of synthetic artefacts: well-formed, complete, escaped, the same each time. Oracles: a small checker of XML
 * nesting written here, and the numbers and names that the artefacts were made from. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/report/report.h"
#include "kernels/format.h"
#include "tests/support/support.h"

enum { N_PLANS = 14, N_BLOCKS = 12, N_FORMATS = 7 };

static const char *const formats[N_FORMATS] = { "TQ1_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0" };
static const char *const parts[] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down" };
/* Each of these must arrive as text. */
static const char evil[] = "<script>alert('x')</script> & \"`date`\" \xff\xc3\xa4";

static const char *in_run(const char *dir, const char *name)
{
    static char path[8][1024];
    static int  at;
    char       *p = path[at++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void write_text(const char *dir, const char *name, const char *text) { bb_test_write(in_run(dir, name), text, strlen(text)); }

static double  kl_of(double bpw) { return 2.1 * exp(-1.35 * bpw); }
static int64_t bytes_of(int i) { return 1400000 + 260017 * (int64_t)i; }

static void plan_name(int i, char out[17]) { snprintf(out, 17, "%016llx", 0x9e3779b97f4a7c15ull * (unsigned)(i + 1)); }

static void put_scores(bb_csv_writer *w, int64_t bytes, double factor)
{
    double bpw = (double)bytes * 8 / 7.4e6, kl = factor * kl_of(bpw);
    bb_csv_put_int(w, bytes);
    bb_csv_put_double(w, bpw);
    bb_csv_put_double(w, kl);
    bb_csv_put_double(w, 0.02 * kl);
    bb_csv_put_double(w, 21.5 * exp(kl));
    bb_csv_put_double(w, 0.15 * exp(kl));
    bb_csv_put_double(w, 1 / (1 + 2 * sqrt(kl)));
}

static void write_front(const char *dir)
{
    bb_csv_writer *w;
    char           name[17];
    ck_assert_int_eq(bb_csv_create(in_run(dir, "front.csv"), "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source,ctx", &w, NULL),
                     BB_OK);
    for (int i = 0; i < N_PLANS; i++) {
        plan_name(i, name);
        bb_csv_put_text(w, name);
        put_scores(w, bytes_of(i), i == 5 ? 1.9 : 1);
        bb_csv_put_double(w, i < 6 ? 0.03 * (6 - i) : 0);
        bb_csv_put_text(w, i == 3 ? evil : "search");
        bb_csv_put_int(w, 256);
        bb_csv_end_row(w);
    }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

static void write_baselines(const char *dir)
{
    bb_csv_writer *w;
    ck_assert_int_eq(bb_csv_create(in_run(dir, "baselines.csv"), "name,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1", &w, NULL), BB_OK);
    for (int i = 0; i < N_FORMATS - 1; i++) {
        char name[64];
        snprintf(name, sizeof name, "uniform %s", formats[i]);
        bb_csv_put_text(w, i == 2 ? evil : name);
        put_scores(w, 1500000 + 500003 * (int64_t)i, 1.6 + 0.3 * (i % 3));
        bb_csv_end_row(w);
    }
    bb_csv_put_text(w, "F16, the source");
    bb_csv_put_int(w, 16400000);
    bb_csv_put_double(w, 16.1);
    bb_csv_put_double(w, 0);
    bb_csv_put_double(w, 0);
    bb_csv_put_double(w, 21.5);
    bb_csv_put_double(w, 0.15);
    bb_csv_put_double(w, 1);
    bb_csv_end_row(w);
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

static void put_layer(bb_csv_writer *w, const char *plan, const char *unit, const char *option, int64_t bytes, double error)
{
    bb_csv_put_text(w, plan);
    bb_csv_put_text(w, unit);
    bb_csv_put_text(w, option);
    bb_csv_put_int(w, bytes);
    bb_csv_put_double(w, error);
    bb_csv_end_row(w);
}

static void write_layers(const char *dir)
{
    bb_csv_writer *w;
    char           plan[17], unit[64], option[16];
    ck_assert_int_eq(bb_csv_create(in_run(dir, "layers.csv"), "plan_hash,unit,option,bytes,error", &w, NULL), BB_OK);
    for (int i = 0; i < N_PLANS; i++) {
        plan_name(i, plan);
        put_layer(w, plan, "token_embd", formats[2 + i / 4], 900000, (double)NAN);
        for (int b = 0; b < N_BLOCKS; b++) {
            int kv = i < 3 && b == 7 ? 0 : i < 6 && b % 3 == 1 ? 2 : 4, ffn = i < 4 && b == 9 ? 0 : i < 6 && b > 5 ? 352 : 512;
            snprintf(unit, sizeof unit, "blk.%d.kv", b);
            snprintf(option, sizeof option, "%d", kv);
            put_layer(w, plan, unit, option, 0, (double)NAN);
            snprintf(unit, sizeof unit, "blk.%d.ffn", b);
            snprintf(option, sizeof option, "%d", ffn);
            put_layer(w, plan, unit, option, 0, (double)NAN);
            for (int p = 0; p < 7; p++) {
                if ((p < 4 && kv == 0) || (p >= 4 && ffn == 0)) continue;
                int f = (i + (b * b + p * 3) % 7) / 3;
                snprintf(unit, sizeof unit, "blk.%d.%s", b, parts[p]);
                put_layer(w, plan, unit, formats[f < N_FORMATS ? f : N_FORMATS - 1], 12345 + p, 0.01 * (p + 1));
            }
        }
    }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

static void write_sensitivity(const char *dir)
{
    bb_csv_writer *w;
    char           unit[64], option[16];
    ck_assert_int_eq(bb_csv_create(in_run(dir, "sensitivity.csv"), "unit,option,bytes,kl_nats,kl_se", &w, NULL), BB_OK);
    for (int b = 0; b < N_BLOCKS; b++)
        for (int p = 0; p < 9; p++)
            for (int f = 0; f < (p < 7 ? N_FORMATS : 5); f++) {
                double depth = 1 + 0.4 * cos(2.0 * b) + 0.1 * b, kl;
                snprintf(unit, sizeof unit, "blk.%d.%s", b, p < 7 ? parts[p] : p == 7 ? "kv" : "ffn");
                if (p < 7) snprintf(option, sizeof option, "%s", formats[f]);
                else snprintf(option, sizeof option, "%d", p == 7 ? f : 128 * f);
                kl = p < 7 ? 0.02 * (p + 1) * depth * exp2(-2 * bb_format_bpw(bb_format_find(formats[f]))) : 0.2 * depth * (exp2(-f) - exp2(-4));
                bb_csv_put_text(w, unit);
                bb_csv_put_text(w, option);
                bb_csv_put_int(w, 1000 * f);
                bb_csv_put_double(w, kl);
                bb_csv_put_double(w, 0.1 * kl);
                bb_csv_end_row(w);
            }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

static void write_convergence(const char *dir)
{
    bb_csv_writer *w;
    ck_assert_int_eq(bb_csv_create(in_run(dir, "convergence.csv"), "step,label,kl_nats,size_bytes", &w, NULL), BB_OK);
    for (int label = 0; label < 3; label++)
        for (int step = 0; step < 40; step++) {
            char name[32];
            snprintf(name, sizeof name, "%.1f MiB", 1.5 + label);
            bb_csv_put_int(w, step);
            bb_csv_put_text(w, name);
            bb_csv_put_double(w, 0.4 / (1 + label) * (1 + exp(-step / 8.0)));
            bb_csv_put_int(w, 1500000 + 1000000 * label);
            bb_csv_end_row(w);
        }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

static void write_plans(const char *dir)
{
    write_text(dir, "plans.csv",
               "plan_hash,size_bytes,kl_nats,kl_se,pruned_fraction,baseline,source,chosen,windows\n"
               "0000000000000001,2097152,0.02,0.001,0,0,search,1,128\n"
               "0000000000000002,1048576,0.3,0.01,0,0,search,0,8\n"
               "0000000000000003,1572864,,,0,0,search,0,8\n" /* never scored: no point */
               "0000000000000004,1572864,0.1,0.004,0,0,search,0,32\n");
}

static void write_all(const char *dir)
{
    char plan[17], guard[2048];
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    write_front(dir);
    write_baselines(dir);
    write_layers(dir);
    write_sensitivity(dir);
    write_convergence(dir);
    write_plans(dir);
    write_text(dir, "env.json",
               "{\"date\": \"2026-11-26 09:00 UTC\", \"version\": \"0.1.0\", \"model\": \"models/a<b>.gguf\", \"threads\": 2, \"cpu\": {\"level\": \"avx512\", "
               "\"flags\": [1, 2]}}");
    write_text(dir, "config.resolved.yaml", "model: \"a<b>&c\"\ncalib: mixture,self\ntarget-size: 3220153\n");
    plan_name(7, plan);
    snprintf(guard, sizeof guard,
             "{\"winner\": \"%s\", \"searched_plan_won\": true, \"target_bytes\": 3300000, \"best_simple_plan\": \"uniform <Q3_K>\", \"margin_nats\": 0.012347,"
             "\"margin_se\": 0.00067, \"plans\": [{\"name\": \"%s\", \"size_bytes\": 3220119, \"kl_nats\": 0.0187, \"kl_se\": 0.0004},"
             "{\"name\": \"uniform <Q3_K>\", \"size_bytes\": 3000009, \"kl_nats\": 0.031045, \"kl_se\": 0.0006}]}",
             plan, plan);
    write_text(dir, "guard.json", guard);
    write_text(dir, "plan.json", "{\"note\": \"small, slow: 79 % of <it>\"}");
}

static char *read_page(const char *dir)
{
    char  *page;
    size_t size;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_report_write(dir, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_file_read(in_run(dir, "report.html"), &page, &size, NULL), BB_OK);
    ck_assert_uint_eq(strlen(page), size);
    return page;
}

/* Every element closed in order, every attribute quoted, every '&' an entity, no '<' in text. */
static void check_nesting(const char *page)
{
    char        stack[64][24];
    int         depth = 0;
    const char *p = strstr(page, "<html");
    ck_assert_ptr_nonnull(p);
    while (*p) {
        if (*p == '&') {
            size_t n = strcspn(p, ";");
            ck_assert_msg(n <= 8, "bare '&': %.40s", p);
            p += n;
        }
        if (*p != '<') {
            p++;
            continue;
        }
        char   name[24];
        size_t n = strcspn(p + 1, " \n\t/>");
        bool   close = p[1] == '/', single;
        if (close) n = strcspn(p + 2, ">");
        ck_assert_msg(n > 0 && n < sizeof name, "bad tag: %.40s", p);
        memcpy(name, p + 1 + close, n);
        name[n] = '\0';
        const char *end = p + 1;
        for (char quote = 0; *end && (quote || *end != '>'); end++) {
            ck_assert_msg(*end != '<', "'<' inside a tag: %.60s", p);
            if (quote) quote = *end == quote ? 0 : quote;
            else if (*end == '"' || *end == '\'') quote = *end;
            else if (*end == '=') {
                const char *value = end + 1 + strspn(end + 1, " ");
                ck_assert_msg(*value == '"' || *value == '\'', "unquoted attribute: %.60s", p);
            }
        }
        ck_assert_msg(*end == '>', "unclosed tag: %.60s", p);
        single = end[-1] == '/';
        if (close) {
            ck_assert_int_gt(depth, 0);
            depth--;
            ck_assert_msg(strcmp(stack[depth], name) == 0, "</%s> closes <%s>", name, stack[depth]);
        } else if (!single) {
            ck_assert_int_lt(depth, 64);
            memcpy(stack[depth++], name, sizeof name);
        }
        p = end + 1;
    }
    ck_assert_int_eq(depth, 0);
}

static void expect(const char *page, const char *text) { ck_assert_msg(strstr(page, text) != NULL, "the page lacks '%s'", text); }

static void check_ids(const char *page)
{
    for (const char *p = page; (p = strstr(p, " id=")); p++) {
        char id[80];
        snprintf(id, sizeof id, "%.*s", (int)(strcspn(p + 5, "\"'") + 6), p);
        ck_assert_msg(strstr(p + 1, id) == NULL, "%s is there twice", id);
    }
}

/* Every section is in the navigation, once and in order. */
static void check_navigation(const char *page)
{
    const char *at = strstr(page, "<nav>"), *end = strstr(page, "</nav>");
    size_t      n = 0;
    char        link[100];
    ck_assert(at && end);
    for (const char *p = page; (p = strstr(p, "<section id=\"")); p++, n++) {
        snprintf(link, sizeof link, "<a href=\"#%.*s\">", (int)strcspn(p + 13, "\""), p + 13);
        at = strstr(at, link);
        ck_assert_msg(at && at < end, "%s is not in the navigation, or not in its place", link);
    }
    ck_assert_uint_ge(n, 8);
}

START_TEST(the_page_is_whole_and_well_formed)
{
    const char *dir = bb_test_path("whole run");
    write_all(dir);
    char *page = read_page(dir), text[64];
    check_nesting(page);
    check_ids(page);
    check_navigation(page);
    expect(page, "<th>original</th><td class=\"t\"><code>models/a&lt;b&gt;.gguf</code>");
    expect(page, "<th>made</th><td class=\"t\">2026-11-26 09:00 UTC</td>");
    expect(page, "the texts that ship with bitbudget, and text that the model wrote itself");
    expect(page, "<th>note</th><td class=\"t\">small, slow: 79 % of &lt;it&gt;</td>");
    expect(page, "<a href=\"front.csv\">");
    ck_assert_ptr_null(strstr(page, "<a href=\"log.txt\">")); /* it is not there */
    for (int i = 0; i < N_PLANS; i++) {                       /* every number of front.csv, exactly */
        bb_csv t;
        ck_assert_int_eq(bb_csv_read(in_run(dir, "front.csv"), &t, NULL), BB_OK);
        expect(page, bb_csv_text(&t, (size_t)i, 0));
        for (size_t c = 2; c < 9; c++) {
            snprintf(text, sizeof text, "data-value=\"%s\"", bb_csv_text(&t, (size_t)i, c));
            expect(page, text);
        }
        snprintf(text, sizeof text, ">%s</td>", bb_csv_text(&t, (size_t)i, 1));
        expect(page, text);
        bb_csv_done(&t);
    }
    expect(page, "16400000");
    expect(page, "F16, the source");
    expect(page, "Right of the plot: F16, the source (15.64 MiB)");
    expect(page, "<b>0.01235 &#177; 0.00067</b>");
    expect(page, "uniform &lt;Q3_K&gt;");
    expect(page, "dropped");
    expect(page, "<b>2</b> of 4");
    expect(page, "<b>352</b> of 512");
    expect(page, "cpu.flags");
    expect(page, "[1,2]");
    expect(page, "model: &quot;a&lt;b&gt;&amp;c&quot;");
    for (int i = 0; i < N_FORMATS - 1; i++) expect(page, formats[i]);
    bb_free(page);
}
END_TEST

START_TEST(text_of_files_stays_text)
{
    const char *dir = bb_test_path("whole run");
    write_all(dir);
    char *page = read_page(dir);
    ck_assert_ptr_null(strstr(page, "<script"));
    ck_assert_ptr_null(strstr(page, "http:/"
                                    "/") == NULL
                           ? NULL
                           : strstr(page, "src="));
    expect(page, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;`date`&quot; \xef\xbf\xbd\xc3\xa4");
    bb_free(page);
    char  *gp;
    size_t size;
    ck_assert_int_eq(bb_file_read(in_run(dir, "plots/front.gp"), &gp, &size, NULL), BB_OK);
    ck_assert_ptr_null(strchr(gp, '`'));
    expect(gp, "uniform Q2_K");
    bb_free(gp);
}
END_TEST

START_TEST(plots_show_every_point)
{
    const char *dir = bb_test_path("whole run");
    write_all(dir);
    if (system("command -v gnuplot >/dev/null 2>&1") != 0) BB_SKIP("gnuplot is not installed");
    char *page = read_page(dir);
    expect(page, "aria-label=\"front\"");
    expect(page, "aria-label=\"perplexity\"");
    expect(page, "aria-label=\"sensitivity\"");
    expect(page, "aria-label=\"convergence\"");
    expect(page, "aria-label=\"scored\"");
    char  *data;
    size_t bytes;
    ck_assert_int_eq(bb_file_read(in_run(dir, "plots/scored.dat"), &data, &bytes, NULL), BB_OK);
    ck_assert_str_eq(strchr(data, '\n') + 1, "1 0.3\n\n\n1.5 0.1\n\n\n2 0.02\n");
    bb_free(data);
    expect(page, "chosen, 128 windows");
    expect(page, "1.5 MiB</text>");
    size_t      points = 0; /* filled circles of the first plot: the plans and one in the key are drawn as uses of point 6 */
    const char *end = strstr(page, "aria-label=\"perplexity\"");
    for (const char *p = page; (p = strstr(p, "<use xlink:href='#front-gpPt6'")) && p < end; p++) points++;
    ck_assert_uint_eq(points, N_PLANS + 1);
    bb_free(page);
}
END_TEST

/* Plans of one size stand in the order of their KL, not of the file: the bytes of the plot must not depend on how a sort treats equals. */
START_TEST(plans_of_one_size_have_an_order)
{
    static const char *const rows[2] = { "0000000000000005,2097152,0.4,0.01,0,0,search,0,8\n0000000000000006,2097152,0.3,0.01,0,0,search,0,8\n",
                                         "0000000000000006,2097152,0.3,0.01,0,0,search,0,8\n0000000000000005,2097152,0.4,0.01,0,0,search,0,8\n" };
    const char              *dir = bb_test_path("whole run");
    for (int i = 0; i < 2; i++) {
        char   text[512], *data;
        size_t bytes;
        write_all(dir);
        snprintf(text, sizeof text, "plan_hash,size_bytes,kl_nats,kl_se,pruned_fraction,baseline,source,chosen,windows\n%s", rows[i]);
        write_text(dir, "plans.csv", text);
        bb_free(read_page(dir));
        ck_assert_int_eq(bb_file_read(in_run(dir, "plots/scored.dat"), &data, &bytes, NULL), BB_OK);
        ck_assert_str_eq(strchr(data, '\n') + 1, "2 0.3\n2 0.4\n");
        bb_free(data);
    }
}
END_TEST

/* Part of the page from aria-label="name" to the end of that picture; bb_free. */
static char *picture(const char *page, const char *name)
{
    char start[64];
    snprintf(start, sizeof start, "aria-label=\"%s\"", name);
    const char *p = strstr(page, start), *end = p ? strstr(p, "</svg>") : NULL;
    ck_assert_msg(p && end, "there is no picture %s", name);
    char *text = bb_alloc((size_t)(end - p) + 1, 1, NULL);
    memcpy(text, p, (size_t)(end - p));
    text[end - p] = 0;
    return text;
}

/* Also when the labels of the ticks are long, as those of a KL near 1e-5 are. */
START_TEST(both_axes_of_every_plot_have_labels)
{
    static const struct {
        const char *name, *x, *y;
    } plots[] = {
        { "front", "size of the file, MiB<", ">KL, nats a token<" },
        { "perplexity", "size of the file, MiB<", ">perplexity<" },
        { "sensitivity", ">bits per weight<", ">KL, nats a token<" },
        { "convergence", ">step<", ">KL, nats a token<" },
    };
    const char *dir = bb_test_path("whole run");
    write_all(dir);
    write_text(dir, "front.csv",
               "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source\r\n"
               "a,1500000,1.6,0.9,0.01,50,1,0.7,0,x\r\nb,3000000,3.2,0.01,0.001,20,1,0.9,0,x\r\nc,6000000,6.4,0.00002,0.000001,19,1,0.99,0,x\r\n");
    if (system("command -v gnuplot >/dev/null 2>&1") != 0) return;
    char *page = read_page(dir);
    for (size_t i = 0; i < sizeof plots / sizeof *plots; i++) {
        char *svg = picture(page, plots[i].name);
        expect(svg, plots[i].x);
        expect(svg, plots[i].y);
        bb_free(svg);
    }
    bb_free(page);
}
END_TEST

START_TEST(the_same_artefacts_give_the_same_bytes)
{
    const char *dir = bb_test_path("whole run");
    write_all(dir);
    char *first = read_page(dir), *second = read_page(dir);
    ck_assert_str_eq(first, second);
    bb_free(first);
    bb_free(second);
}
END_TEST

START_TEST(only_the_front_is_needed)
{
    const char *dir = bb_test_path("small");
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_report_write(dir, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "there is no front.csv"));
    write_front(dir);
    char *page = read_page(dir);
    check_nesting(page);
    ck_assert_ptr_null(strstr(page, "id=\"map\""));
    bb_free(page);
    /* No plan at all, one plan, and one without any number. */
    static const char        head[] = "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source\r\n";
    static const char *const rows[] = { "", "abc,1000,1,0.5,,,,,,x\r\n", "abc,1000,,,,,,,,\r\n", "abc,0,1,-0.5,nan,inf,,,,x\r\n",
                                        "abc,-5,1,0,0,1,0,0,0,x\r\n" };
    for (size_t i = 0; i < 5; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s%s", head, rows[i]);
        write_text(dir, "front.csv", text);
        page = read_page(dir);
        check_nesting(page);
        bb_free(page);
    }
}
END_TEST

START_TEST(broken_artefacts_are_refused)
{
    static const struct {
        const char *file, *text, *says;
    } bad[] = {
        { "front.csv", "plan_hash,size_bytes\r\n", "the column 'bpw' is missing" },
        { "front.csv", "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source\r\na,big,1,1,1,1,1,1,1,x\r\n", "not a whole number" },
        { "baselines.csv", "", "is empty" },
        { "layers.csv", "plan_hash,unit,option,bytes,error\r\na,b,c,d,e\r\n", "row 2" },
        { "sensitivity.csv", "unit,option,bytes,kl_nats,kl_se\r\na,b,1,x,1\r\n", "not a number" },
        { "convergence.csv", "step\r\n", "label" },
        { "env.json", "{", "env.json line 1" },
        { "guard.json", "[]", "not a JSON object" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *dir = bb_test_path("broken");
        bb_err      err = BB_ERR_INIT;
        write_all(dir);
        write_text(dir, bad[i].file, bad[i].text);
        ck_assert_int_eq(bb_report_write(dir, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "'%s' lacks '%s'", err.msg, bad[i].says);
    }
}
END_TEST

START_TEST(strange_artefacts_do_not_break_the_page)
{
    const char *dir = bb_test_path("strange");
    write_all(dir);
    write_text(dir, "layers.csv",
               "plan_hash,unit,option,bytes,error\r\nx,blk.99999999999999999999.attn_q,Q4_K,1,1\r\nx,blk.-1.kv,2,1,1\r\nx,blk.3.,Q4_K,1,1\r\n"
               "x,blk.2.kv,-7,1,\r\nx,blk.2.ffn,many,1,\r\nx,blk.2.ffn,9223372036854775807,1,\r\nx,,,0,\r\n,blk.1.attn_q,<b>,1,inf\r\n");
    write_text(dir, "sensitivity.csv",
               "unit,option,bytes,kl_nats,kl_se\r\nblk.0.attn_q,Q4_K,1,-1,1\r\nblk.0.attn_q,Q5_K,1,0,1\r\nblk.0.kv,1,,0.2,0.1\r\noutput,Q6_K,1,1e300,\r\n");
    write_text(dir, "convergence.csv", "step,label,kl_nats,size_bytes\r\n0,,0,\r\n1,',-1,\r\n2,,inf,\r\n");
    write_text(dir, "plan.json", "{\"note\": 3}");
    write_text(dir, "guard.json", "{\"winner\": 3, \"plans\": [1, {\"name\": null, \"size_bytes\": \"x\"}], \"margin_nats\": \"no\"}");
    char *page = read_page(dir);
    check_nesting(page);
    ck_assert_ptr_null(strstr(page, "<b></td>"));
    bb_free(page);
}
END_TEST

/* Numbers where a double ends: every plot ends, too, and leaves them out. */
START_TEST(numbers_at_the_edge_of_double_are_drawn_around)
{
    static const char *const edges[] = { "1e300", "-1e300", "1.7976931348623157e308", "5e-324", "1e-300", "inf" };
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        const char *dir = bb_test_path("edge");
        char        rows[600];
        write_all(dir);
        snprintf(rows, sizeof rows,
                 "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source\r\n"
                 "a,1000000,2,0.5,0.1,%s,%s,0.5,0,x\r\nb,2000000,3,%s,%s,20,1,0.6,0,x\r\nc,3000000,4,0.1,0.01,15,1,0.7,0,x\r\n",
                 edges[i], edges[i], edges[i], edges[i]);
        write_text(dir, "front.csv", rows);
        snprintf(rows, sizeof rows, "step,label,kl_nats,size_bytes\r\n0,1 MiB,%s,1000\r\n1,1 MiB,0.5,1000\r\n", edges[i]);
        write_text(dir, "convergence.csv", rows);
        char *page = read_page(dir);
        check_nesting(page);
        bb_free(page);
    }
}
END_TEST

/* BB_REPORT_TO=folder leaves the synthetic run there, to look at. */
/* Values that are one number in 9 digits have an axis all the same; what is not known is left out, and comes last of its size. */
START_TEST(values_that_nearly_agree_are_drawn)
{
    static const char        head[] = "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source\n";
    static const char *const rows[] = {
        "a,12884901888,4,0.5,0.01,10,0.1,0.5,0,x\nb,12884901920,5,0.3,0.01,9,0.1,0.6,0,y\n",
        "a,1000000,4,0.50000000001,0,10,0,0.5,0,x\nb,2000000,5,0.5,0,9,0,0.6,0,y\n",
        "a,1000000,4,0.6,0,10.00000000001,0,0.5,0,x\nb,2000000,5,0.5,0,10,0,0.6,0,y\n",
        "a,1000000,4,2,,10,,0.5,0,x\nb,1000000,4,,,10,,0.5,0,x\nc,1000000,4,1,,10,,0.5,0,x\n-,4000000,16,0,,8,,1,0,y\n",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char       *page, name[32], text[1024];
        size_t      size;
        bb_err      err = BB_ERR_INIT;
        const char *dir;
        snprintf(name, sizeof name, "near-%zu", i);
        dir = bb_test_path(name);
        ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
        snprintf(text, sizeof text, "%s%s", head, rows[i]);
        write_text(dir, "front.csv", text);
        write_text(dir, "convergence.csv", "step,label,kl_nats,size_bytes\n1,x,0.123456789012,100\n2,x,0.123456789011,100\n");
        ck_assert_msg(bb_report_write(dir, &err) == BB_OK, "%s: %s", rows[i], err.msg);
        ck_assert_int_eq(bb_file_read(in_run(dir, "report.html"), &page, &size, NULL), BB_OK);
        ck_assert(!strstr(page, "177; nan") && !strstr(page, "177; -nan"));
        if (i == 3) ck_assert(strstr(page, "<tr class=\"chosen\"><td><code>c") && strstr(page, "<tr class=\"under\"><td><code>a"));
        bb_free(page);
    }
}
END_TEST

START_TEST(a_page_to_look_at)
{
    const char *dir = getenv("BB_REPORT_TO");
    write_all(dir);
    bb_free(read_page(dir));
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    Suite *s = suite_create("report");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_page_is_whole_and_well_formed);
    tcase_add_test(t, text_of_files_stays_text);
    tcase_add_test(t, plots_show_every_point);
    tcase_add_test(t, plans_of_one_size_have_an_order);
    tcase_add_test(t, both_axes_of_every_plot_have_labels);
    tcase_add_test(t, the_same_artefacts_give_the_same_bytes);
    tcase_add_test(t, only_the_front_is_needed);
    tcase_add_test(t, broken_artefacts_are_refused);
    tcase_add_test(t, strange_artefacts_do_not_break_the_page);
    tcase_add_test(t, numbers_at_the_edge_of_double_are_drawn_around);
    tcase_add_test(t, values_that_nearly_agree_are_drawn);
    if (getenv("BB_REPORT_TO")) tcase_add_test(t, a_page_to_look_at);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
