/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_table.c: the table of items by key (base/table.h) against a plain search, with good hashes and with bad ones. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "tests/support/support.h"

enum { MOST = 3000 };

typedef struct items {
    uint64_t key[MOST];
    uint32_t n;
    int      kind;
} items;

/* By kind: spread; in few low bits; all the same. */
static uint64_t hash(int kind, uint64_t key) { return kind == 0 ? key * 0x9E3779B97F4A7C15u >> 20 : kind == 1 ? key & 7 : 5; }
static uint64_t hash_of(const void *all, uint32_t number) { return hash(((const items *)all)->kind, ((const items *)all)->key[number]); }
static bool     is_key(const void *all, uint32_t number, const void *key) { return ((const items *)all)->key[number] == *(const uint64_t *)key; }

static uint32_t *at(const bb_table *t, const items *x, uint64_t key) { return bb_table_at(t, hash(x->kind, key), is_key, x, &key); }

START_TEST(finds_what_was_added)
{
    static items x;
    bb_table     t = { 0 };
    bb_rng       r;
    const size_t live = bb_mem_live_bytes();
    const int    rounds = _i == 0 ? 2 * MOST : 400;
    bb_rng_init(&r, 3, "table");
    x = (items) { .kind = _i };
    ck_assert_ptr_null(at(&t, &x, 1));
    for (int k = 0; k < rounds; k++) {
        const uint64_t key = bb_rng_below(&r, (uint64_t)rounds / 2); /* half of them again */
        uint32_t       known = 0;
        while (known < x.n && x.key[known] != key) known++;
        ck_assert_int_eq(bb_table_reserve(&t, x.n + 1, x.n, hash_of, &x, NULL), BB_OK);
        ck_assert_uint_ge(t.n_slots, 2 * (x.n + 1));
        uint32_t *slot = at(&t, &x, key);
        ck_assert_uint_eq(*slot, known < x.n ? known + 1 : 0);
        if (*slot) continue;
        x.key[x.n++] = key;
        *slot = x.n;
    }
    for (uint32_t i = 0; i < x.n; i++) ck_assert_uint_eq(*at(&t, &x, x.key[i]), i + 1);
    ck_assert_uint_eq(*at(&t, &x, UINT64_MAX), 0);
    ck_assert_uint_lt(t.n_slots, 8 * (size_t)x.n);
    bb_table_done(&t);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
}
END_TEST

START_TEST(growing_fails_without_a_loss)
{
    items    x = { .n = 0 };
    bb_table t = { 0 };
    bb_err   err = BB_ERR_INIT, wide = BB_ERR_INIT;
    ck_assert_int_eq(bb_table_reserve(&t, 32, 0, NULL, NULL, NULL), BB_OK);
    const size_t slots = t.n_slots;
    for (; x.n < 32; x.n++) {
        x.key[x.n] = 7 * x.n;
        *at(&t, &x, 7 * x.n) = x.n + 1;
    }
    ck_assert_int_eq(bb_table_reserve(&t, slots / 2, x.n, hash_of, &x, NULL), BB_OK);
    ck_assert_uint_eq(t.n_slots, slots); /* there was room */
    bb_mem_fail_after(0);
    ck_assert_int_eq(bb_table_reserve(&t, slots, x.n, hash_of, &x, &err), BB_NOMEM);
    bb_mem_fail_after(-1);
    ck_assert_int_eq(bb_table_reserve(&t, (size_t)UINT32_MAX, x.n, hash_of, &x, &wide), BB_NOMEM);
    ck_assert_msg(strstr(wide.msg, "4294967295") != NULL, "%s", wide.msg);
    ck_assert_uint_eq(t.n_slots, slots);
    for (uint32_t i = 0; i < x.n; i++) ck_assert_uint_eq(*at(&t, &x, 7 * i), i + 1);
    ck_assert_int_eq(bb_table_reserve(&t, slots, x.n, hash_of, &x, NULL), BB_OK);
    for (uint32_t i = 0; i < x.n; i++) ck_assert_uint_eq(*at(&t, &x, 7 * i), i + 1);
    bb_table_done(&t);
    bb_table_done(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base_table");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, finds_what_was_added, 0, 3);
    tcase_add_test(t, growing_fails_without_a_loss);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
