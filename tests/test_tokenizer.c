/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_tokenizer.c: the ids of llama.cpp's own test vectors; merging against a plain quadratic oracle; special tokens against a plain
 * search; text -> ids -> text; vocabularies that lie. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/io/gguf.h"
#include "model/io/tokenizer.h"
#include "tests/support/support.h"

/* ---- vocabularies made in memory: a bb_gguf as the reader would leave it ---- */

typedef struct vocab {
    bb_source g;
    bb_key    kv[16];
    bb_bytes *text, *merge;
    float    *score;
    int32_t  *type;
    uint64_t  n, n_merge;
    char     *owned[8];
    size_t    n_owned;
} vocab;

static void set(vocab *v, const char *key, bb_kind kind, const void *value, uint64_t bytes)
{
    v->kv[v->g.n_kv++] = (bb_key) { { key, strlen(key) }, kind, kind, 1, value, bytes, NULL };
}

static void set_text(vocab *v, const char *key, const char *text) { set(v, key, BB_KIND_STRING, text, strlen(text)); }

static void set_array(vocab *v, const char *key, bb_kind element, uint64_t n, const void *value, bb_bytes *strings)
{
    v->kv[v->g.n_kv++] = (bb_key) { { key, strlen(key) }, BB_KIND_ARRAY, element, n, value, 4 * n, strings };
}

static void vocab_init(vocab *v, const char *model, const char *pre, uint64_t room, uint64_t merges)
{
    memset(v, 0, sizeof *v);
    v->g.kv = v->kv;
    v->text = bb_calloc(room, sizeof *v->text, NULL);
    v->score = bb_calloc(room, sizeof *v->score, NULL);
    v->type = bb_calloc(room, sizeof *v->type, NULL);
    v->merge = bb_calloc(merges, sizeof *v->merge, NULL);
    set_text(v, "tokenizer.ggml.model", model);
    if (pre) set_text(v, "tokenizer.ggml.pre", pre);
}

static void vocab_add(vocab *v, const char *text, size_t size, float score, int32_t type)
{
    v->text[v->n] = (bb_bytes) { text, size };
    v->score[v->n] = score;
    v->type[v->n++] = type;
}

static void vocab_seal(vocab *v)
{
    set_array(v, "tokenizer.ggml.tokens", BB_KIND_STRING, v->n, NULL, v->text);
    set_array(v, "tokenizer.ggml.scores", BB_KIND_F32, v->n, (unsigned char *)v->score, NULL);
    set_array(v, "tokenizer.ggml.token_type", BB_KIND_I32, v->n, (unsigned char *)v->type, NULL);
    if (v->n_merge) set_array(v, "tokenizer.ggml.merges", BB_KIND_STRING, v->n_merge, NULL, v->merge);
}

static void vocab_done(vocab *v)
{
    bb_free(v->text);
    bb_free(v->score);
    bb_free(v->type);
    bb_free(v->merge);
    while (v->n_owned) bb_free(v->owned[--v->n_owned]);
}

static bb_tokenizer *make(const bb_source *g)
{
    bb_err        err = BB_ERR_INIT;
    bb_tokenizer *t = NULL;
    ck_assert_msg(bb_tokenizer_create(g, &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

/* GPT-2's alphabet, written from its definition (Radford et al. 2019): the printable bytes of Latin-1 first, then the rest from U+0100. */
static char     alphabet[256][3];
static unsigned alphabet_order[256];

static void make_alphabet(void)
{
    unsigned n = 0, next = 0x100;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned b = 0; b < 256; b++) {
            bool     plain = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
            unsigned c = plain ? b : next;
            if (plain != (pass == 0)) continue;
            if (!plain) next++;
            if (c < 0x80) alphabet[b][0] = (char)c;
            else {
                alphabet[b][0] = (char)(0xC0 | c >> 6);
                alphabet[b][1] = (char)(0x80 | (c & 63));
            }
            alphabet_order[n++] = b;
        }
}

/* ---- files ---- */

static char *read_all(const char *path, size_t *size)
{
    char  *data = NULL;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_file_read(path, &data, size, &err) == BB_OK, "%s", err.msg);
    return data;
}

/* The texts of `inp` must give the ids on the lines of `out`. Returns the number of texts. */
static unsigned check_vectors(const bb_tokenizer *t, const char *inp_path, const char *out_path)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    size_t            inp_size, out_size, n_ids;
    char             *inp = read_all(inp_path, &inp_size), *out = read_all(out_path, &out_size), *line = out;
    unsigned          n = 0;
    for (char *text = inp, *end; *text; text = end + strlen(mark), n++) {
        int32_t *ids;
        bb_err   err = BB_ERR_INIT;
        char    *line_end = strchr(line, '\n');
        if (!(end = strstr(text, mark))) break;
        ck_assert_ptr_nonnull(line_end);
        ck_assert_msg(bb_tokenize(t, text, (size_t)(end - text), false, true, &ids, &n_ids, &err) == BB_OK, "%s", err.msg);
        for (size_t i = 0; i < n_ids; i++) {
            char *after;
            long  want = strtol(line, &after, 10);
            ck_assert_msg(after != line && after <= line_end, "text %u: %zu ids, more than wanted", n, n_ids);
            ck_assert_msg(want == ids[i], "%s text %u, id %zu: %d, wanted %ld", out_path, n, i, ids[i], want);
            line = after;
        }
        ck_assert_msg(strspn(line, " ") == (size_t)(line_end - line), "text %u: fewer ids than wanted", n);
        line = line_end + 1;
        bb_free(ids);
    }
    bb_free(inp);
    bb_free(out);
    return n;
}

/* Ids and back, byte for byte. */
static void check_round_trip(const bb_tokenizer *t, const char *text, size_t size, bool special)
{
    bb_err   err = BB_ERR_INIT;
    int32_t *ids;
    size_t   n, back_size;
    char    *back;
    ck_assert_msg(bb_tokenize(t, text, size, special, special, &ids, &n, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_detokenize(t, ids, n, &back, &back_size, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(back_size, size);
    ck_assert_int_eq(memcmp(back, text, size), 0);
    bb_free(back);
    bb_free(ids);
}

static void check_round_trips(const bb_tokenizer *t)
{
    size_t size;
    char  *all = read_all("tests/data/vocab/vectors.inp", &size);
    check_round_trip(t, all, size, false);
    check_round_trip(t, all, size, true);
    for (char *text = all; *text; text += strcspn(text, "\n") + 1) check_round_trip(t, text, strcspn(text, "\n"), true);
    check_round_trip(t, " two  spaces ", 13, false);
    check_round_trip(t, "", 0, true);
    check_round_trip(t, "nul \0 byte", 10, false);
    bb_free(all);
}

/* ---- vectors ---- */

/* GPT-2's vocabulary follows from its merges: the alphabet, the merge results in order, the end mark. */
static void gpt2_vocab(vocab *v, const char *merges)
{
    size_t size, used = 0;
    char  *joined;
    vocab_init(v, "gpt2", "gpt-2", 50257, 50000);
    v->owned[v->n_owned++] = read_all(merges, &size);
    v->owned[v->n_owned++] = joined = bb_alloc(size, 1, NULL);
    for (unsigned i = 0; i < 256; i++) vocab_add(v, alphabet[alphabet_order[i]], strlen(alphabet[alphabet_order[i]]), 0, 1);
    for (char *line = v->owned[0], *end; *line; line = end + 1) {
        char *space = strchr(line, ' ');
        end = line + strcspn(line, "\n");
        if (*line == '#' && line == v->owned[0]) continue;
        v->merge[v->n_merge++] = (bb_bytes) { line, (uint64_t)(end - line) };
        memcpy(joined + used, line, (size_t)(space - line));
        memcpy(joined + used + (space - line), space + 1, (size_t)(end - space - 1));
        vocab_add(v, joined + used, (size_t)(end - line) - 1, 0, 1);
        used += (size_t)(end - line) - 1;
    }
    vocab_add(v, "<|endoftext|>", 13, 0, 3);
    ck_assert_uint_eq(v->n, 50257);
    vocab_seal(v);
}

START_TEST(gpt2_vectors)
{
    vocab v;
    gpt2_vocab(&v, "tests/data/vocab/gpt2-merges.txt");
    bb_tokenizer *t = make(&v.g);
    ck_assert_uint_eq(check_vectors(t, "tests/data/vocab/vectors.inp", "tests/data/vocab/gpt-2.out"), 46);
    check_round_trips(t);
    bb_tokenizer_destroy(t);
    vocab_done(&v);
}
END_TEST

START_TEST(phi3_vectors)
{
    bb_source g;
    bb_err    err = BB_ERR_INIT;
    ck_assert_msg(bb_gguf_open("tests/data/vocab/phi-3.gguf", &g, &err) == BB_OK, "%s", err.msg);
    bb_tokenizer *t = make(&g);
    ck_assert_uint_eq(check_vectors(t, "tests/data/vocab/vectors.inp", "tests/data/vocab/phi-3.out"), 46);
    ck_assert(bb_tokenizer_adds_bos(t));
    ck_assert_int_eq(bb_tokenizer_bos(t), 1);
    ck_assert_uint_eq(bb_tokenizer_n_vocab(t), 32064);
    check_round_trips(t);
    bb_tokenizer_destroy(t);
    bb_source_close(&g);
}
END_TEST

/* Other families, cut to what the texts need (tests/data/README.md): the ids follow from the cut, the way to them does not change. */
static const struct {
    const char *name;
    bool        adds_bos;
} families[] = {
    { "starcoder", false },     { "refact", false }, { "falcon", false },           { "mpt", false },      { "deepseek-llm", true },
    { "deepseek-coder", true }, { "qwen2", false },  { "deepseek-r1-qwen", false }, { "llama-bpe", true },
};

START_TEST(vectors_of_cut_vocabularies)
{
    char      gguf[128], out[128];
    bb_source g;
    bb_err    err = BB_ERR_INIT;
    snprintf(gguf, sizeof gguf, "tests/data/vocab/%s.gguf", families[_i].name);
    snprintf(out, sizeof out, "tests/data/vocab/%s.out", families[_i].name);
    ck_assert_msg(bb_gguf_open(gguf, &g, &err) == BB_OK, "%s", err.msg);
    bb_tokenizer *t = make(&g);
    ck_assert_uint_eq(check_vectors(t, "tests/data/vocab/vectors.inp", out), 46);
    ck_assert_msg(bb_tokenizer_adds_bos(t) == families[_i].adds_bos, "%s", families[_i].name);
    check_round_trips(t);
    bb_tokenizer_destroy(t);
    bb_source_close(&g);
}
END_TEST

/* ---- merging against the definition ---- */

/* All symbols as offsets; best pair by a scan of everything, again and again. rank(text, left, middle, right): the lower the earlier, <0 none. */
typedef long (*rank_fn)(const vocab *v, const char *text, size_t left, size_t middle, size_t right);

static size_t merge_slowly(const vocab *v, const char *text, size_t *cut, size_t n, rank_fn rank)
{
    for (;;) {
        long   best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 2 <= n; i++) {
            long q = rank(v, text, cut[i], cut[i + 1], cut[i + 2]);
            if (q >= 0 && (best < 0 || q < best)) {
                best = q;
                at = i;
            }
        }
        if (best < 0) return n;
        memmove(cut + at + 1, cut + at + 2, (n - at - 1) * sizeof *cut);
        n--;
    }
}

static int32_t find_token(const vocab *v, const char *text, size_t size)
{
    for (uint64_t i = 0; i < v->n; i++)
        if (v->text[i].size == size && memcmp(v->text[i].data, text, size) == 0) return (int32_t)i;
    return -1;
}

static long rank_by_score(const vocab *v, const char *text, size_t left, size_t middle, size_t right)
{
    int32_t id = find_token(v, text + left, right - left);
    (void)middle;
    return id < 0 ? -1 : 100 - (long)v->score[id];
}

/* A vocabulary of random strings over few characters: full of overlaps, ties, tokens with spaces inside and characters that are no tokens. */
static void random_spm(vocab *v, bb_rng *r)
{
    static const char *const part[] = { "a", "b", "\xC3\xA9", "\xE2\x96\x81", "\xF0\x9F\xA6\x99" };
    char                    *texts = bb_alloc(400, 32, NULL);
    vocab_init(v, "llama", NULL, 400, 1);
    v->owned[v->n_owned++] = texts;
    vocab_add(v, "<unk>", 5, 0, 2);
    vocab_add(v, "<s>", 3, 0, 3);
    vocab_add(v, "</s>", 4, 0, 3);
    for (unsigned b = 0; b < 256; b++, texts += 8) {
        snprintf(texts, 8, "<0x%02X>", b);
        vocab_add(v, texts, 6, 0, 6);
    }
    for (unsigned i = 0; i < 40; i++) {
        size_t   size = 0;
        unsigned n = 1 + (unsigned)bb_rng_below(r, 5);
        for (unsigned k = 0; k < n; k++) {
            const char *p = part[bb_rng_below(r, 5)];
            memcpy(texts + size, p, strlen(p));
            size += strlen(p);
        }
        if (find_token(v, texts, size) < 0) vocab_add(v, texts, size, (float)bb_rng_below(r, 8) - 4, 1);
        texts += size;
    }
    vocab_seal(v);
}

static size_t spm_slowly(const vocab *v, const char *text, size_t size, int32_t *ids)
{
    size_t cut[200], n = 0, n_ids = 0;
    for (size_t at = 0; at < size; n++) {
        unsigned char c = (unsigned char)text[at];
        cut[n] = at;
        at += c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        if (at > size) at = size;
    }
    cut[n] = size;
    n = merge_slowly(v, text, cut, n, rank_by_score);
    for (size_t i = 0; i < n; i++) {
        int32_t id = find_token(v, text + cut[i], cut[i + 1] - cut[i]);
        if (id >= 0) ids[n_ids++] = id;
        else
            for (size_t b = cut[i]; b < cut[i + 1]; b++) ids[n_ids++] = 3 + (unsigned char)text[b];
    }
    return n_ids;
}

START_TEST(spm_merges_as_defined)
{
    static const char *const part[] = { "a", "b", "\xC3\xA9", " ", "\xF0\x9F\xA6\x99", "\xE2\x96\x81", "z", "\xC3", "\xA9", "\n" };
    bb_rng                   r;
    bb_rng_init(&r, 7, "spm");
    for (int round = 0; round < 40; round++) {
        vocab v;
        random_spm(&v, &r);
        bb_tokenizer *t = make(&v.g);
        for (int k = 0; k < 40; k++) {
            char     raw[128], text[300] = "\xE2\x96\x81";
            size_t   n = 0, size = 3, n_ids, n_want;
            int32_t *ids, want[300];
            unsigned parts = 1 + (unsigned)bb_rng_below(&r, 30);
            for (unsigned i = 0; i < parts; i++) {
                const char *p = part[bb_rng_below(&r, i % 7 ? 5 : 10)];
                memcpy(raw + n, p, strlen(p));
                n += strlen(p);
            }
            for (size_t i = 0; i < n; i++)
                if (raw[i] == ' ') {
                    memcpy(text + size, "\xE2\x96\x81", 3);
                    size += 3;
                } else text[size++] = raw[i];
            n_want = spm_slowly(&v, text, size, want);
            ck_assert_int_eq(bb_tokenize(t, raw, n, false, false, &ids, &n_ids, NULL), BB_OK);
            ck_assert_uint_eq(n_ids, n_want);
            ck_assert_int_eq(memcmp(ids, want, n_ids * sizeof *ids), 0);
            bb_free(ids);
        }
        bb_tokenizer_destroy(t);
        vocab_done(&v);
    }
}
END_TEST

static long rank_by_merge(const vocab *v, const char *text, size_t left, size_t middle, size_t right)
{
    char   line[64];
    size_t n = middle - left, m = right - middle;
    memcpy(line, text + left, n);
    line[n] = ' ';
    memcpy(line + n + 1, text + middle, m);
    for (uint64_t i = 0; i < v->n_merge; i++)
        if (v->merge[i].size == n + m + 1 && memcmp(v->merge[i].data, line, n + m + 1) == 0) return (long)i;
    return -1;
}

START_TEST(bpe_merges_as_defined)
{
    bb_rng r;
    bb_rng_init(&r, 8, "bpe");
    for (int round = 0; round < 60; round++) {
        vocab         v;
        char         *lines = bb_alloc(64, 64, NULL), *joined = bb_alloc(64, 64, NULL);
        bb_tokenizer *t;
        vocab_init(&v, "gpt2", "gpt-2", 100, 64);
        v.owned[v.n_owned++] = lines;
        v.owned[v.n_owned++] = joined;
        for (int c = 0; c < 3; c++) vocab_add(&v, alphabet['a' + c], 1, 0, 1); /* 'd' is no token */
        for (int i = 0; i < 24; i++) {                                         /* merges of random parts, most of whose results are tokens */
            char part[2][8] = { "", "" };
            for (int p = 0; p < 2; p++) {
                unsigned n = 1 + (unsigned)bb_rng_below(&r, 3);
                for (unsigned k = 0; k < n; k++) part[p][k] = (char)('a' + bb_rng_below(&r, 4));
            }
            snprintf(lines, 64, "%s %s", part[0], part[1]);
            snprintf(joined, 64, "%s%s", part[0], part[1]);
            v.merge[v.n_merge++] = (bb_bytes) { lines, strlen(lines) };
            if (bb_rng_below(&r, 8) && find_token(&v, joined, strlen(joined)) < 0) vocab_add(&v, joined, strlen(joined), 0, 1);
            lines += 64;
            joined += 64;
        }
        vocab_seal(&v);
        t = make(&v.g);
        for (int k = 0; k < 40; k++) {
            char     text[64];
            size_t   n = 1 + bb_rng_below(&r, 40), cut[65], n_ids, n_want = 0;
            int32_t *ids, want[64];
            for (size_t i = 0; i < n; i++) text[i] = (char)('a' + bb_rng_below(&r, 4));
            for (size_t i = 0; i <= n; i++) cut[i] = i;
            size_t m = merge_slowly(&v, text, cut, n, rank_by_merge);
            for (size_t i = 0; i < m; i++) {
                int32_t id = find_token(&v, text + cut[i], cut[i + 1] - cut[i]);
                if (id >= 0) want[n_want++] = id;
                else /* characters one by one; those that are no tokens vanish */
                    for (size_t b = cut[i]; b < cut[i + 1]; b++)
                        if (text[b] != 'd') want[n_want++] = text[b] - 'a';
            }
            ck_assert_int_eq(bb_tokenize(t, text, n, false, false, &ids, &n_ids, NULL), BB_OK);
            ck_assert_uint_eq(n_ids, n_want);
            ck_assert_int_eq(memcmp(ids, want, n_ids * sizeof *ids), 0);
            bb_free(ids);
        }
        bb_tokenizer_destroy(t);
        vocab_done(&v);
    }
}
END_TEST

/* ---- special tokens ---- */

/* Pieces as llama.cpp makes them, by definition: each special token in turn searches each piece of text that is left. */
typedef struct piece {
    size_t  at, size;
    int32_t id;
} piece;

static size_t cut_slowly(const vocab *v, const char *text, size_t size, bool control, piece *p)
{
    size_t n = 1;
    p[0] = (piece) { 0, size, -1 };
    for (size_t length = 16; length > 0; length--)
        for (uint64_t id = 0; id < v->n; id++) {
            if (v->text[id].size != length || !(v->type[id] == 4 || (control && (v->type[id] == 3 || v->type[id] == 2)))) continue;
            for (size_t i = 0; i < n; i++)
                for (size_t at = p[i].at; p[i].id < 0 && at + length <= p[i].at + p[i].size; at++)
                    if (memcmp(text + at, v->text[id].data, length) == 0) {
                        piece left = { p[i].at, at - p[i].at, -1 }, right = { at + length, p[i].at + p[i].size - at - length, -1 };
                        memmove(p + i + 3, p + i + 1, (n - i - 1) * sizeof *p);
                        p[i] = left;
                        p[i + 1] = (piece) { at, length, (int32_t)id };
                        p[i + 2] = right;
                        n += 2;
                        break;
                    }
        }
    return n;
}

START_TEST(special_tokens_are_cut_out_first)
{
    static const char *const sets[3][8] = { { "ab", "abc", "xab", "cx", "bb", "aab", "x", "bcxa" },
                                            { "a", "aa", "aaa", "aaaa", "aaaaa", "aab", "baaa", "b" },
                                            { "abca", "bcab", "cabc", "bca", "abcabc", "ca", "bb", "xx" } };
    const char *const       *special = sets[_i];
    bb_rng                   r;
    vocab                    v;
    bb_tokenizer            *t;
    bb_rng_init(&r, 9, "special");
    random_spm(&v, &r);
    v.g.n_kv = 1; /* seal again with more tokens */
    for (int i = 0; i < 8; i++)
        if (find_token(&v, special[i], strlen(special[i])) < 0) vocab_add(&v, special[i], strlen(special[i]), 0, i % 2 ? 3 : 4);
    vocab_seal(&v);
    t = make(&v.g);
    for (int k = 0; k < 2000; k++) {
        char     text[24];
        size_t   size = 1 + bb_rng_below(&r, 20), n_ids, n, want_n = 0;
        int32_t *ids, want[200];
        piece    p[64];
        for (size_t i = 0; i < size; i++) text[i] = "abcx"[bb_rng_below(&r, _i == 1 ? 2 : 4)];
        n = cut_slowly(&v, text, size, k % 2, p);
        for (size_t i = 0; i < n; i++) {
            char spaced[32] = "\xE2\x96\x81";
            if (p[i].id >= 0) want[want_n++] = p[i].id;
            else if (p[i].size) {
                memcpy(spaced + 3, text + p[i].at, p[i].size);
                want_n += spm_slowly(&v, spaced, p[i].size + 3, want + want_n);
            }
        }
        ck_assert_int_eq(bb_tokenize(t, text, size, false, k % 2, &ids, &n_ids, NULL), BB_OK);
        ck_assert_uint_eq(n_ids, want_n);
        ck_assert_int_eq(memcmp(ids, want, n_ids * sizeof *ids), 0);
        bb_free(ids);
        check_round_trip(t, text, size, true);
    }
    bb_tokenizer_destroy(t);
    vocab_done(&v);
}
END_TEST

/* Special tokens that are parts of one another, and a text in which each begins at every byte: memory and time grow with the text. */
START_TEST(nested_special_tokens_cost_no_more_than_others)
{
    enum { NESTED = 400, TEXT = 1 << 20 };
    char         *all = bb_alloc(TEXT, 1, NULL);
    size_t        n_ids, before;
    int32_t      *ids;
    bb_tokenizer *t;
    vocab         v;
    memset(all, 'a', TEXT);
    vocab_init(&v, "llama", NULL, NESTED + 8, 1);
    vocab_add(&v, "<unk>", 5, 0, 2);
    vocab_add(&v, "<s>", 3, 0, 3);
    vocab_add(&v, "</s>", 4, 0, 3);
    for (size_t i = 1; i <= NESTED; i++) vocab_add(&v, all, i, 0, 4);
    vocab_seal(&v);
    t = make(&v.g);
    before = bb_mem_peak_bytes();
    ck_assert_int_eq(bb_tokenize(t, all, TEXT, false, true, &ids, &n_ids, NULL), BB_OK);
    ck_assert_uint_eq(n_ids, TEXT / NESTED + 1);
    for (size_t i = 0; i < n_ids; i++) ck_assert_int_eq(ids[i], 2 + (i + 1 < n_ids ? NESTED : TEXT % NESTED));
    ck_assert_uint_lt(bb_mem_peak_bytes() - before, 100 * (size_t)TEXT);
    bb_free(ids);
    bb_tokenizer_destroy(t);
    vocab_done(&v);
    bb_free(all);
}
END_TEST

START_TEST(bos_and_control_texts)
{
    bb_source g;
    int32_t  *ids;
    size_t    n;
    ck_assert_int_eq(bb_gguf_open("tests/data/vocab/phi-3.gguf", &g, NULL), BB_OK);
    bb_tokenizer *t = make(&g);
    ck_assert_int_eq(bb_tokenize(t, "<|user|>\n Hello", 15, true, true, &ids, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 3); /* BOS; <|user|>, which swallows the white space; Hello, which begins with the added space */
    ck_assert_int_eq(ids[0], 1);
    ck_assert_int_eq(ids[1], 32010);
    ck_assert_int_eq(ids[2], 15043);
    bb_free(ids);
    ck_assert_int_eq(bb_tokenize(t, "<s>", 3, false, false, &ids, &n, NULL), BB_OK);
    ck_assert_uint_gt(n, 1); /* as plain text */
    bb_free(ids);
    ck_assert_int_eq(bb_tokenize(t, "", 0, true, false, &ids, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 1);
    bb_free(ids);
    bb_tokenizer_destroy(t);
    bb_source_close(&g);
}
END_TEST

/* ---- bytes, lies, memory ---- */

START_TEST(any_bytes_survive)
{
    bb_source g;
    bb_rng    r;
    char      text[200];
    vocab     v;
    bb_rng_init(&r, 10, "bytes");
    ck_assert_int_eq(bb_gguf_open("tests/data/vocab/phi-3.gguf", &g, NULL), BB_OK);
    gpt2_vocab(&v, "tests/data/vocab/gpt2-merges.txt");
    bb_tokenizer *spm = make(&g), *bpe = make(&v.g);
    for (int k = 0; k < 300; k++) {
        size_t   n = bb_rng_below(&r, 200), n_ids;
        int32_t *ids;
        for (size_t i = 0; i < n; i++) {
            text[i] = (char)bb_rng_u64(&r);
            if (i >= 2 && memcmp(text + i - 2, "\xE2\x96\x81", 3) == 0) text[i] = 'x'; /* U+2581 reads back as a space */
        }
        check_round_trip(spm, text, n, false);
        ck_assert_int_eq(bb_tokenize(bpe, text, n, true, true, &ids, &n_ids, NULL), BB_OK); /* repaired: no round trip */
        bb_free(ids);
        for (size_t i = 0; i < n; i++) text[i] = (char)(text[i] & 127);
        check_round_trip(bpe, text, n, true);
    }
    ck_assert_int_eq(bb_detokenize(spm, &(int32_t) { 32064 }, 1, &(char *) { NULL }, &(size_t) { 0 }, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_detokenize(spm, &(int32_t) { -1 }, 1, &(char *) { NULL }, &(size_t) { 0 }, NULL), BB_BAD_FILE);
    bb_tokenizer_destroy(spm);
    bb_tokenizer_destroy(bpe);
    bb_source_close(&g);
    vocab_done(&v);
}
END_TEST

static const struct lie {
    const char *what;
    bb_status   status;
} lies[] = {
    { "unknown model", BB_UNSUPPORTED },    { "unknown pre-tokenizer", BB_UNSUPPORTED },
    { "duplicate", BB_BAD_FILE },           { "scores short", BB_BAD_FILE },
    { "types short", BB_BAD_FILE },         { "bad type", BB_BAD_FILE },
    { "byte text", BB_BAD_FILE },           { "BOS outside", BB_BAD_FILE },
    { "NaN score", BB_BAD_FILE },           { "no merges", BB_BAD_FILE },
    { "no tokens", BB_BAD_FILE },           { "scores of another kind", BB_BAD_FILE },
    { "BOS of another kind", BB_BAD_FILE }, { "no BOS to add", BB_BAD_FILE },
};

START_TEST(vocabularies_that_lie)
{
    static const unsigned char far_id[4] = { 9, 0, 0, 1 };
    const char                *what = lies[_i].what;
    bool                       bpe = strstr(what, "merges") || strstr(what, "pre-");
    vocab                      v;
    bb_tokenizer              *t = NULL;
    bb_err                     err = BB_ERR_INIT;
#define LIE(x) (strcmp(what, x) == 0)
    vocab_init(&v, LIE("unknown model") ? "bert" : bpe ? "gpt2" : "llama", bpe ? LIE("no merges") ? "gpt-2" : "nobody's" : NULL, 8, 1);
    vocab_add(&v, "<unk>", 5, 0, 2);
    if (!LIE("no BOS to add")) vocab_add(&v, "<s>", 3, 0, 3);
    if (LIE("duplicate")) vocab_add(&v, "<s>", 3, 0, 3);
    if (LIE("byte text")) vocab_add(&v, "<0x0G>", 6, 0, 6);
    if (LIE("NaN score")) vocab_add(&v, "a", 1, (float)strtod("nan", NULL), 1);
    if (LIE("bad type")) vocab_add(&v, "a", 1, 0, 7);
    if (LIE("no tokens")) v.n = 0;
    vocab_seal(&v);
    for (uint64_t i = 0; i < v.g.n_kv; i++) {
        bool score = v.kv[i].key.size == 21, type = v.kv[i].key.size == 25;
        if ((LIE("scores short") && score) || (LIE("types short") && type)) v.kv[i].count--;
        if (LIE("scores of another kind") && score) v.kv[i].element = BB_KIND_U8;
    }
    if (LIE("BOS outside")) set(&v, "tokenizer.ggml.bos_token_id", BB_KIND_U32, far_id, 4);
    if (LIE("BOS of another kind")) set_text(&v, "tokenizer.ggml.bos_token_id", "<s>");
    size_t live = bb_mem_live_bytes();
    ck_assert_msg(bb_tokenizer_create(&v.g, &t, &err) == lies[_i].status, "%s: %d %s", what, err.status, err.msg);
    ck_assert_ptr_null(t);
    ck_assert_int_eq(err.status, lies[_i].status);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
    vocab_done(&v);
}
END_TEST

START_TEST(running_out_of_memory_leaves_nothing)
{
    bb_rng r;
    vocab  spm, bpe;
    bb_rng_init(&r, 11, "memory");
    random_spm(&spm, &r);
    vocab_init(&bpe, "gpt2", "gpt-2", 4, 1);
    vocab_add(&bpe, "a", 1, 0, 1);
    vocab_add(&bpe, "aa", 2, 0, 4);
    bpe.merge[bpe.n_merge++] = (bb_bytes) { "a a", 3 };
    vocab_seal(&bpe);
    for (int k = 0; k < 2; k++) {
        long n = 0;
        for (bb_status status = BB_NOMEM; status != BB_OK; n++) {
            bb_tokenizer *t = NULL;
            int32_t      *ids = NULL;
            char         *text = NULL;
            size_t        n_ids, size, live = bb_mem_live_bytes();
            bb_err        err = BB_ERR_INIT;
            bb_mem_fail_after(n);
            status = bb_tokenizer_create(k ? &bpe.g : &spm.g, &t, &err);
            if (status == BB_OK) status = bb_tokenize(t, "a b aa", 6, true, true, &ids, &n_ids, &err);
            if (status == BB_OK) status = bb_detokenize(t, ids, n_ids, &text, &size, &err);
            bb_mem_fail_after(-1);
            ck_assert(status == BB_OK || status == BB_NOMEM);
            bb_free(text);
            bb_free(ids);
            bb_tokenizer_destroy(t);
            ck_assert_uint_eq(bb_mem_live_bytes(), live);
        }
        ck_assert_int_gt(n, 8);
    }
    vocab_done(&spm);
    vocab_done(&bpe);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *t = tcase_create("core");
    make_alphabet();
    tcase_set_timeout(t, 60);
    tcase_add_test(t, gpt2_vectors);
    tcase_add_test(t, phi3_vectors);
    tcase_add_loop_test(t, vectors_of_cut_vocabularies, 0, (int)(sizeof families / sizeof *families));
    tcase_add_test(t, spm_merges_as_defined);
    tcase_add_test(t, bpe_merges_as_defined);
    tcase_add_loop_test(t, special_tokens_are_cut_out_first, 0, 3);
    tcase_add_test(t, nested_special_tokens_cost_no_more_than_others);
    tcase_add_test(t, bos_and_control_texts);
    tcase_add_test(t, any_bytes_survive);
    tcase_add_loop_test(t, vocabularies_that_lie, 0, (int)(sizeof lies / sizeof *lies));
    tcase_add_test(t, running_out_of_memory_leaves_nothing);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
