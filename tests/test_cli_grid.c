/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_grid.c: a run of a model whose FFN has a width that 256 does not divide: it is cut to the grid, ffn_down gets a format of blocks of 256, and the
 * plan's note says so. */
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/model.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { WIDE = 352, GRID = 256, C = 64 };

/* Bytes of an FFN in F16 at full width, and cut to the grid with ffn_down in IQ2_S (82 bytes a block). */
static uint64_t saved(void) { return 3 * 2 * C * WIDE - (2 * 2 * C * GRID + C * 82); }

START_TEST(the_width_goes_to_the_grid)
{
    tiny_spec s = tiny_default("llama");
    bb_err    err = BB_ERR_INIT;
    bb_model  m;
    bb_csv    t;
    char      dir[300], path[400], *text;
    uint64_t  size;
    size_t    rows = 0;
    s.n_embd = C;
    s.head_dim = 16;
    s.n_ff[0] = s.n_ff[1] = WIDE;
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, bb_test_path("odd.gguf"));
    ck_assert_int_eq(bb_file_size(bb_test_path("odd.gguf"), &size, NULL), BB_OK);
    snprintf(dir, sizeof dir, "%s", bb_test_path("run"));
    const bb_status status = bb_test_command(
        NULL, &err,
        "run %s --target-size %llu --formats IQ2_S --embd-formats F16 --prune ffn --calib docs/formats.md --ctx 32 --calib-windows 16 "
        "--measure-windows 2 --refine-windows 2 --confirm-windows 4 --search-tokens 0.02 --sweeps 1 --tune-windows 2 --tune-tokens 0.001 --out %s",
        bb_test_path("odd.gguf"), (unsigned long long)(size - 2 * saved() + 2048), dir);
    ck_assert_msg(status == BB_OK, "%s", err.msg);
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    ck_assert_msg(bb_model_open(path, &m, &err) == BB_OK, "%s", err.msg);
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_uint_eq(m.net.blocks[i].n_ff, GRID);
        ck_assert_int_eq(m.net.blocks[i].w[BB_PART_DOWN].type, BB_IQ2_S);
        ck_assert_int_eq(m.net.blocks[i].w[BB_PART_UP].type, BB_F16);
    }
    bb_model_close(&m);
    snprintf(path, sizeof path, "%s/plan.json", dir);
    ck_assert_int_eq(bb_file_read(path, &text, &rows, NULL), BB_OK);
    ck_assert_msg(strstr(text, "blk.0.ffn_down cut from 352 to 256, where it can be IQ2_S, blk.1.ffn_down cut from 352 to 256") != NULL, "%s", text);
    bb_free(text);
    snprintf(path, sizeof path, "%s/report.html", dir);
    ck_assert_int_eq(bb_file_read(path, &text, &rows, NULL), BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "cut from 352 to 256, where it can be IQ2_S"));
    bb_free(text);

    /* alone it takes no bytes that could be said, and costs what it costs beside the cut, which is not counted twice */
    double cut = 0, quantized = -1;
    snprintf(path, sizeof path, "%s/sensitivity.csv", dir);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    for (size_t r = 0; r < t.n_rows; r++) {
        if (strcmp(bb_csv_text(&t, r, 0), "blk.0.ffn") == 0 && strcmp(bb_csv_text(&t, r, 1), "256") == 0)
            ck_assert_int_eq(bb_csv_double(&t, r, 3, &cut, NULL), BB_OK);
        if (strcmp(bb_csv_text(&t, r, 0), "blk.0.ffn_down") != 0 || strcmp(bb_csv_text(&t, r, 1), "IQ2_S") != 0) continue;
        ck_assert_str_eq(bb_csv_text(&t, r, 2), "");
        ck_assert_int_eq(bb_csv_double(&t, r, 3, &quantized, NULL), BB_OK);
    }
    bb_csv_done(&t);
    ck_assert_msg(cut > 0 && quantized >= 0 && quantized < cut, "the cut alone %g, the format %g", cut, quantized);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off(); /* as main() does */
    Suite *s = suite_create("cli_grid");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_width_goes_to_the_grid);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
