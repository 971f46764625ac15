/* SPDX-License-Identifier: GPL-3.0-or-later
 * database.c: see database.h.
 *
 * In memory: one table of entries keyed by (layer, part, kept, type), each absent, being made by one thread, or ready; and a small
 * cache of factored Hessians, because the matrices and formats of one input come one after the other. On disk: one file an
 * entry, little endian: 8 bytes magic, u32 type, rows, cols, 0; u64 data bytes; f64 0, 0, error, seconds;
 * data at byte 64. The file name is a hash of everything that the content depends on.
 */
#include "model/compress/database.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/compress/feedback.h"
#include "model/compress/statistics.h"

enum { HEADER_BYTES = 64, CACHE_SLOTS = 6, VERSION = 8 };

/* Parts beyond bb_part in entry keys. */
enum { PART_EMBEDDING = BB_N_PARTS, PART_HEAD, PART_TABLE, PART_FFN_MASK, PART_KV_MASK };

static const char   magic[9] = "BBENT001";
static const size_t cache_bytes = BB_DATABASE_CACHE_BYTES;

typedef struct header {
    char     magic[8];
    uint32_t type, rows, cols, zero;
    uint64_t data_bytes;
    double   zeros[2], error, seconds;
} header;

_Static_assert(sizeof(header) == HEADER_BYTES, "no padding in the file header");

typedef struct key {
    uint32_t layer, part;
    bb_width kept;
    bb_type  type;
} key;

typedef enum state { ABSENT, BUSY, READY } state;

typedef struct entry {
    key            key;
    state          state;
    bb_map         map;
    bb_matrix      matrix;
    bb_quant_stats stats;
    float         *bias;     /* owned copy for selected rows, or NULL */
    uint32_t      *channels; /* owned; masks only */
} entry;

/* The Hessian of one (possibly pruned) input with its factors. */
typedef struct slot {
    uint32_t   layer;
    bb_feed    input;
    bb_width   kept;
    state      state;
    unsigned   users;
    uint64_t   last_use;
    bb_hessian h; /* borrows from the statistics when unpruned */
    bool       owned, factored;
    bb_factor  factor;
} slot;

struct bb_database {
    bb_database_config config;
    char              *dir; /* copy */
    bb_statistics      statistics;
    bb_kept_order     *gates; /* [n_layer] owned; NULL: there are none */
    bb_output_moments  outputs;
    pthread_mutex_t    mutex;
    pthread_cond_t     changed;
    entry            **table; /* open addressing by key; n_room a power of two */
    size_t             n_entries, n_room;
    slot               cache[CACHE_SLOTS];
    uint64_t           clock;
};

/* ---- keys ---- */

static const bb_net *net_of(const bb_database *db) { return &db->config.model->net; }

static bool same_key(const key *a, const key *b) { return a->layer == b->layer && a->part == b->part && a->kept == b->kept && a->type == b->type; }

static uint64_t hash_key(const key *k)
{
    const uint32_t words[4] = { k->layer, k->part, k->kept, (uint32_t)k->type };
    return bb_hash64(words, sizeof words, 0);
}

static void hash_common(const bb_database *db, bb_sha256 *s)
{
    const bb_database_config *c = &db->config;
    char                      text[256];
    bb_sha256_init(s);
    bb_sha256_text(s, "bitbudget entry");
    bb_sha256_text(s, bb_model_sha256(c->model));
    bb_sha256_text(s, db->statistics.tokens_hash);
    bb_sha256_text(s, bb_kernels_bits());
    snprintf(text, sizeof text, "version %d, step %u, method %d, damping %.17g, sweeps %u", VERSION, c->ffn_step, (int)c->quant.method, c->quant.damping,
             c->quant.sweeps);
    bb_sha256_text(s, text);
    if (c->cut) bb_sha256_text(s, "cut");
}

const char *bb_database_dir(const bb_database *db) { return db->dir; }

const bb_backend *bb_database_backend(const bb_database *db) { return db->config.backend; }

void bb_database_key(const bb_database *db, char hex[65])
{
    bb_sha256 s;
    hash_common(db, &s);
    bb_sha256_hex(&s, hex);
}

/* By which number files know a part: those of the tables are older than BB_TOKEN. */
static uint32_t filed_as(uint32_t part)
{
    if (part == PART_EMBEDDING || part == PART_HEAD) return BB_PART_TOKEN_GATE + (part - PART_EMBEDDING);
    return part < BB_PART_TOKEN_GATE ? part : part + 2;
}

static bb_status path_of(bb_database *db, const key *k, char **path, bb_err *err)
{
    const uint32_t n = bb_width_count(k->kept), *channels;
    bb_sha256      s;
    char           hex[65], text[256];
    bb_status      status = BB_OK;
    *path = NULL;
    hash_common(db, &s);
    snprintf(text, sizeof text, "layer %u, part %u, kept %u, type %d", k->layer, filed_as(k->part), n, (int)k->type);
    bb_sha256_text(&s, text);
    if (k->kept & BB_BY_GATES) { /* which ones: the order of the second moments is known by what it was made of */
        BB_TRY(bb_database_mask(db, k->layer, bb_parts[k->part].sublayer == BB_FFN, k->kept, &channels, err));
        bb_sha256_update(&s, channels, n * sizeof *channels);
    }
    bb_sha256_hex(&s, hex);
    if (!(*path = bb_asprintf(err, "%s/entry-%.32s.bin", db->dir, hex))) status = BB_NOMEM;
done:
    return status;
}

static entry **find_place(entry **table, size_t n_room, const key *k)
{
    size_t i = (size_t)hash_key(k) & (n_room - 1);
    while (table[i] && !same_key(&table[i]->key, k)) i = (i + 1) & (n_room - 1);
    return &table[i];
}

static bb_status grow(bb_database *db, bb_err *err)
{
    const size_t room = db->n_room ? 2 * db->n_room : 256;
    entry      **table = BB_NEW0(room, entry *, err);
    if (!table) return BB_NOMEM;
    for (size_t i = 0; i < db->n_room; i++)
        if (db->table[i]) *find_place(table, room, &db->table[i]->key) = db->table[i];
    bb_free(db->table);
    db->table = table;
    db->n_room = room;
    return BB_OK;
}

/* The entry of a key, made ABSENT when it is new. Called with the mutex held. */
static bb_status find_entry(bb_database *db, const key *k, entry **e, bb_err *err)
{
    entry **place;
    if (2 * db->n_entries >= db->n_room) {
        bb_status status = grow(db, err);
        if (status != BB_OK) return status;
    }
    place = find_place(db->table, db->n_room, k);
    if (!*place) {
        *place = BB_NEW0(1, entry, err);
        if (!*place) return BB_NOMEM;
        (*place)->key = *k;
        db->n_entries++;
    }
    *e = *place;
    return BB_OK;
}

/* ---- factored Hessians ---- */

static size_t slot_bytes(const slot *s)
{
    size_t n = s->h.n_cols;
    return s->state == READY ? n * n * sizeof(float) * (s->owned ? 2u : 1u) : 0;
}

static void drop_slot(slot *s)
{
    if (s->owned) bb_hessian_done(&s->h);
    if (s->factored) bb_factor_done(&s->factor);
    *s = (slot) { 0 };
}

void bb_database_forget_factors(bb_database *db)
{
    pthread_mutex_lock(&db->mutex);
    for (int i = 0; i < CACHE_SLOTS; i++)
        if (db->cache[i].state == READY && db->cache[i].users == 0) drop_slot(&db->cache[i]);
    pthread_mutex_unlock(&db->mutex);
}

/* An empty slot: the least recently used one that nobody holds, after the limit in bytes is kept. NULL when all are held. */
static slot *free_slot(bb_database *db)
{
    for (;;) {
        size_t bytes = 0;
        slot  *empty = NULL, *oldest = NULL;
        for (int i = 0; i < CACHE_SLOTS; i++) {
            slot *s = &db->cache[i];
            bytes += slot_bytes(s);
            if (s->state == ABSENT) empty = s;
            else if (s->users == 0 && (!oldest || s->last_use < oldest->last_use)) oldest = s;
        }
        if (empty && (bytes <= cache_bytes || !oldest)) return empty;
        if (!oldest) return NULL;
        /* Blocks are encoded one after the other: what is left behind need not stay in memory, and costs little to read again. */
        bb_map_release(&db->statistics.blocks[oldest->layer].map);
        bb_source_release(&db->config.model->source, oldest->layer);
        drop_slot(oldest);
    }
}

/* Widths: kept as in entries; the part's own full size means unpruned. */
static uint32_t full_size(const bb_database *db, uint32_t layer, uint32_t part)
{
    const bb_block *b = &net_of(db)->blocks[layer];
    return bb_part_kept(b, (bb_part)part);
}

/* Columns of the input that survive, ascending. */
static bb_status kept_columns(bb_database *db, uint32_t layer, bool ffn, bb_width kept, uint32_t group, uint32_t **columns, bb_err *err)
{
    const uint32_t *channels, n = bb_width_count(kept) * group;
    bb_status       status = bb_database_mask(db, layer, ffn, kept, &channels, err);
    *columns = status == BB_OK ? BB_NEW(n, uint32_t, err) : NULL;
    if (status == BB_OK && !*columns) status = BB_NOMEM;
    for (uint32_t i = 0; status == BB_OK && i < n; i++) (*columns)[i] = channels[i / group] * group + i % group;
    return status;
}

/* Of a part whose columns are cut: those that go together. */
static uint32_t columns_a_group(const bb_database *db, uint32_t layer, bb_part part)
{
    const bb_block *b = &net_of(db)->blocks[layer];
    return b->w[part].cols / bb_part_kept(b, part);
}

static bb_status embedding_hessian(const bb_database *db, bb_hessian *out, bb_err *err);

static bb_status fill_slot(bb_database *db, slot *s, bb_err *err)
{
    const uint32_t    layer = s->layer;
    const bb_part     part = bb_sublayers[bb_feeds[s->input].sublayer].writer;
    const bb_hessian *full = &db->statistics.blocks[layer].in[s->input];
    bb_status         status = BB_OK;
    uint32_t         *columns = NULL;
    if (layer == db->statistics.n_layer) {
        s->owned = true;
        BB_TRY(embedding_hessian(db, &s->h, err));
    } else if (bb_parts[part].feed == s->input && s->kept != full_size(db, layer, part)) {
        const uint32_t group = columns_a_group(db, layer, part);
        s->owned = true;
        BB_TRY(kept_columns(db, layer, bb_parts[part].sublayer == BB_FFN, s->kept, group, &columns, err));
        BB_TRY(bb_hessian_subset(full, columns, bb_width_count(s->kept) * group, &s->h, err));
    } else {
        s->h = *full;
    }
    if (db->config.quant.method == BB_METHOD_FEEDBACK) {
        bb_err local = BB_ERR_INIT;
        status = bb_factor_make(&s->h, db->config.quant.damping, &s->factor, &local);
        s->factored = status == BB_OK;
        if (status == BB_NUMERIC) {
            bb_warn("block %u: %s; its matrices are encoded without error feedback", layer, local.msg);
            status = BB_OK;
        } else if (status != BB_OK) {
            BB_FAIL(err, status, "%s", local.msg);
        }
    }
done:
    bb_free(columns);
    return status;
}

/* Gives a held slot; release_slot afterwards. */
static bb_status hold_slot(bb_database *db, uint32_t layer, bb_feed input, bb_width kept, slot **out, bb_err *err)
{
    bb_status status = BB_OK;
    slot     *s;
    pthread_mutex_lock(&db->mutex);
    for (;;) {
        s = NULL;
        for (int i = 0; i < CACHE_SLOTS; i++) {
            slot *t = &db->cache[i];
            if (t->state != ABSENT && t->layer == layer && t->input == input && t->kept == kept) s = t;
        }
        if (s && s->state == READY) break;
        if (!s && (s = free_slot(db)) != NULL) {
            *s = (slot) { .layer = layer, .input = input, .kept = kept, .state = BUSY, .users = 1 };
            pthread_mutex_unlock(&db->mutex);
            status = fill_slot(db, s, err);
            pthread_mutex_lock(&db->mutex);
            s->users = 0;
            s->state = READY;
            if (status != BB_OK) drop_slot(s);
            pthread_cond_broadcast(&db->changed);
            break;
        }
        pthread_cond_wait(&db->changed, &db->mutex);
    }
    if (status == BB_OK) {
        s->users++;
        s->last_use = ++db->clock;
        *out = s;
    }
    pthread_mutex_unlock(&db->mutex);
    return status;
}

static void release_slot(bb_database *db, slot *s)
{
    pthread_mutex_lock(&db->mutex);
    s->users--;
    pthread_cond_broadcast(&db->changed);
    pthread_mutex_unlock(&db->mutex);
}

/* ---- making entries ---- */

/* A packed matrix in memory on its way to a file. */
typedef struct made {
    unsigned char *data;
    uint32_t       rows, cols;
    bb_quant_stats stats;
} made;

static const bb_matrix *source_of(const bb_database *db, const key *k)
{
    const bb_net *net = net_of(db);
    if (k->part == PART_EMBEDDING) return &net->embd;
    if (k->part == PART_HEAD) return &net->head;
    if (k->part == PART_TABLE) return &net->token.table;
    return &net->blocks[k->layer].w[k->part];
}

static bb_status new_matrix(made *m, uint32_t rows, uint32_t cols, bb_type type, bb_err *err)
{
    const bb_format *f = bb_format_get(type);
    m->rows = rows;
    m->cols = cols;
    if (cols % f->block)
        return BB_FAIL(err, BB_UNSUPPORTED, "%s stores %u weights a block: rows of %u weights do not divide into them", f->name, f->block, cols);
    m->data = BB_NEW(rows * bb_format_row_bytes(f, cols), unsigned char, err);
    return m->data ? BB_OK : BB_NOMEM;
}

/* Rows of the full-size entry that belong to kept groups. */
static bb_status make_selection(bb_database *db, const key *k, made *m, bb_err *err)
{
    const bool     ffn = bb_parts[k->part].sublayer == BB_FFN;
    const uint32_t full = full_size(db, k->layer, k->part), group = source_of(db, k)->rows / full;
    uint32_t      *rows = NULL;
    bb_matrix      whole;
    bb_status      status;
    size_t         bytes;
    BB_TRY(bb_database_matrix(db, k->layer, (bb_part)k->part, full, k->type, &whole, &m->stats, err));
    BB_TRY(kept_columns(db, k->layer, ffn, k->kept, group, &rows, err));
    BB_TRY(new_matrix(m, bb_width_count(k->kept) * group, whole.cols, k->type, err));
    bytes = bb_format_row_bytes(bb_format_get(k->type), whole.cols);
    for (uint32_t i = 0; i < m->rows; i++) memcpy(m->data + i * bytes, (const unsigned char *)whole.data + rows[i] * bytes, bytes);
done:
    bb_free(rows);
    return status;
}

/* w (rows, cols) of O or DOWN becomes the least-squares weights of the kept columns; *lost: the relative error that it leaves. */
static bb_status compensate(bb_database *db, const key *k, const bb_matrix *source, float **w, uint32_t *cols, double *lost, bb_err *err)
{
    const bb_block_statistics *b = &db->statistics.blocks[k->layer];
    const uint32_t             count = bb_width_count(k->kept);
    const uint32_t             group = columns_a_group(db, k->layer, (bb_part)k->part);
    const bb_hessian          *h = &db->statistics.blocks[k->layer].in[bb_parts[k->part].feed];
    uint32_t                  *columns = NULL;
    float                     *less = NULL;
    bb_status                  status;
    *cols = count * group;
    *lost = 0;
    BB_TRY(kept_columns(db, k->layer, bb_parts[k->part].sublayer == BB_FFN, k->kept, group, &columns, err));
    less = BB_NEW((size_t)source->rows * *cols, float, err);
    if (!less) {
        status = BB_NOMEM;
        goto done;
    }
    if (db->config.cut)
        for (size_t i = 0; i < (size_t)source->rows * *cols; i++) less[i] = (*w)[i / *cols * source->cols + columns[i % *cols]];
    else {
        BB_TRY(bb_mask_compensate(*w, source->rows, source->cols, h, columns, *cols, less, err));
        if (k->kept & BB_BY_GATES) BB_TRY(bb_mask_error(*w, source->rows, source->cols, h, columns, *cols, less, lost, err));
        else *lost = bb_parts[k->part].sublayer == BB_FFN ? b->ff_error[count - 1] : b->kv_error[count - 1];
    }
    bb_free(*w);
    *w = less;
    less = NULL;
done:
    bb_free(columns);
    bb_free(less);
    return status;
}

static bb_status make_quantized(bb_database *db, const key *k, made *m, bb_err *err)
{
    const bb_matrix *source = source_of(db, k);
    const bool       is_block = k->part < BB_N_PARTS, input_only = k->part == PART_TABLE || (k->part == PART_EMBEDDING && net_of(db)->head.rows);
    const bool       pruned = is_block && k->kept != full_size(db, k->layer, k->part);
    float           *w = NULL;
    uint32_t         cols = source->cols;
    double           lost;
    slot            *s = NULL;
    bb_status        status = BB_OK;
    if (pruned && !(w = bb_matrix_decode(source, err))) return BB_NOMEM;
    if (pruned) BB_TRY(compensate(db, k, source, &w, &cols, &lost, err));
    BB_TRY(new_matrix(m, source->rows, cols, k->type, err));
    if (!input_only) BB_TRY(hold_slot(db, k->layer, is_block ? bb_parts[k->part].feed : (bb_feed)0, k->kept, &s, err));
    const bb_hessian *h = s ? &s->h : NULL;
    const bb_factor  *factor = s && s->factored ? &s->factor : NULL;
    if (pruned) BB_TRY(bb_quantize_prepared(w, source->rows, cols, h, factor, k->type, &db->config.quant, m->data, &m->stats, err));
    else BB_TRY(bb_quantize_matrix(source, h, factor, k->type, &db->config.quant, m->data, &m->stats, err));
    /* The error of a compensated matrix counts what pruning took: least squares makes the two parts add up. */
    if (pruned && !db->config.cut) m->stats.error = lost + (1 - lost) * m->stats.error;
done:
    if (s) release_slot(db, s);
    bb_free(w);
    return status;
}

static bb_status write_made(const char *path, const key *k, const made *m, bb_err *err)
{
    bb_writer w = { 0 };
    header    h = { .type = (uint32_t)k->type, .rows = m->rows, .cols = m->cols, .error = m->stats.error, .seconds = m->stats.seconds };
    bb_status status = bb_writer_open(&w, path, err);
    if (status != BB_OK) return status;
    memcpy(h.magic, magic, sizeof h.magic);
    h.data_bytes = (uint64_t)m->rows * bb_format_row_bytes(bb_format_get(k->type), m->cols);
    fwrite(&h, sizeof h, 1, w.stream); /* errors are found at commit */
    fwrite(m->data, 1, (size_t)h.data_bytes, w.stream);
    return bb_writer_commit(&w, err);
}

/* Maps an entry's file, which has rows x cols. */
static bb_status map_entry(const char *path, uint32_t rows, uint32_t cols, entry *e, bb_err *err)
{
    header           h;
    const bb_format *f = bb_format_get(e->key.type);
    bb_status        status = bb_map_open(path, &e->map, err);
    if (status != BB_OK) return status;
    if (e->map.size >= sizeof h) {
        memcpy(&h, e->map.data, sizeof h);
        if (memcmp(h.magic, magic, sizeof h.magic) == 0 && h.type == (uint32_t)e->key.type && h.rows == rows && h.cols == cols && cols % f->block == 0 &&
            h.data_bytes == (uint64_t)h.rows * bb_format_row_bytes(f, h.cols) && e->map.size == sizeof h + h.data_bytes) {
            e->matrix = (bb_matrix) { .type = e->key.type, .rows = h.rows, .cols = h.cols, .data = e->map.data + sizeof h };
            e->stats = (bb_quant_stats) { h.error, h.seconds };
            return BB_OK;
        }
    }
    bb_map_close(&e->map);
    return BB_FAIL(err, BB_IO, "%s: is not the entry that was just written", path);
}

/* The rows of a bias that belong to kept groups. */
static bb_status select_bias(bb_database *db, entry *e, const bb_matrix *source, bb_err *err)
{
    const key *k = &e->key;
    const bool ffn = bb_parts[k->part].sublayer == BB_FFN;
    uint32_t  *rows = NULL;
    bb_status  status;
    BB_TRY(kept_columns(db, k->layer, ffn, k->kept, source->rows / full_size(db, k->layer, k->part), &rows, err));
    e->bias = BB_NEW(e->matrix.rows, float, err);
    if (!e->bias) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t i = 0; i < e->matrix.rows; i++) e->bias[i] = source->bias[rows[i]];
done:
    bb_free(rows);
    return status;
}

static bb_status make_matrix(bb_database *db, entry *e, bb_err *err)
{
    const key       *k = &e->key;
    const bb_matrix *source = source_of(db, k);
    const bool       full = k->part >= BB_N_PARTS || k->kept == full_size(db, k->layer, k->part);
    const bool       by_rows = !full && bb_part_cut_by_rows((bb_part)k->part);
    const uint32_t   rows = by_rows ? bb_width_count(k->kept) * (source->rows / full_size(db, k->layer, k->part)) : source->rows;
    const uint32_t   cols = full || by_rows ? source->cols : bb_width_count(k->kept) * columns_a_group(db, k->layer, (bb_part)k->part);
    made             m = { 0 };
    bb_status        status = BB_OK;
    char            *path = NULL;
    if (full && k->type == source->type) {
        e->matrix = *source;
        return BB_OK;
    }
    BB_TRY(path_of(db, k, &path, err));
    if (map_entry(path, rows, cols, e, NULL) != BB_OK) { /* one that is not there, or of another shape, is made */
        BB_TRY(by_rows ? make_selection(db, k, &m, err) : make_quantized(db, k, &m, err));
        BB_TRY(write_made(path, k, &m, err));
        BB_TRY(map_entry(path, rows, cols, e, err));
    }
    e->matrix.bias = source->bias;
    if (source->bias && by_rows) {
        BB_TRY(select_bias(db, e, source, err));
        e->matrix.bias = e->bias;
    }
done:
    bb_free(m.data);
    bb_free(path);
    return status;
}

static int ascending(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static bb_status make_mask(const bb_database *db, entry *e, bb_err *err)
{
    const bb_sublayer s = e->key.part == PART_FFN_MASK ? BB_FFN : BB_ATTENTION;
    const size_t      n = bb_width_count(e->key.kept);
    const bool        by_gates = e->key.kept & BB_BY_GATES;
    const uint32_t   *order = by_gates ? db->gates ? db->gates[e->key.layer].of[s] : NULL : bb_database_order(db, e->key.layer, s);
    if (!order)
        return BB_FAIL(err, BB_UNSUPPORTED, "block %u: %s", e->key.layer,
                       by_gates ? "the plan has widths by gates, and no gates were learned here (--width-order)"
                                : "nothing was measured by which structures could be removed");
    e->channels = BB_NEW(n, uint32_t, err);
    if (!e->channels) return BB_NOMEM;
    memcpy(e->channels, order, n * sizeof *e->channels);
    qsort(e->channels, n, sizeof *e->channels, ascending);
    return BB_OK;
}

static void clear_entry(entry *e)
{
    bb_map_close(&e->map);
    bb_free(e->bias);
    bb_free(e->channels);
    e->bias = NULL;
    e->channels = NULL;
}

/* The ready entry of a key; made here, or awaited when another thread makes it. */
static bb_status get_entry(bb_database *db, const key *k, entry **out, bb_err *err)
{
    bb_status status;
    entry    *e = NULL;
    pthread_mutex_lock(&db->mutex);
    status = find_entry(db, k, &e, err);
    while (status == BB_OK && e->state == BUSY) pthread_cond_wait(&db->changed, &db->mutex);
    if (status == BB_OK && e->state == ABSENT) {
        e->state = BUSY;
        pthread_mutex_unlock(&db->mutex);
        status = k->part == PART_FFN_MASK || k->part == PART_KV_MASK ? make_mask(db, e, err) : make_matrix(db, e, err);
        pthread_mutex_lock(&db->mutex);
        if (status != BB_OK) clear_entry(e);
        e->state = status == BB_OK ? READY : ABSENT;
        pthread_cond_broadcast(&db->changed);
    }
    pthread_mutex_unlock(&db->mutex);
    *out = e;
    return status;
}

/* ---- interface ---- */

const uint32_t *bb_database_order(const bb_database *db, uint32_t layer, bb_sublayer s)
{
    const bb_block_statistics *b = &db->statistics.blocks[layer];
    return db->config.whole || s == BB_TOKEN || !bb_block_kept(&net_of(db)->blocks[layer], s) ? NULL : s == BB_FFN ? b->ff_order : b->kv_order;
}

const double *bb_database_order_error(const bb_database *db, uint32_t layer, bb_sublayer s)
{
    const bb_block_statistics *b = &db->statistics.blocks[layer];
    return !bb_database_order(db, layer, s) ? NULL : s == BB_FFN ? b->ff_error : b->kv_error;
}

static void free_gates(bb_database *db)
{
    for (uint32_t i = 0; db->gates && i < net_of(db)->n_layer; i++)
        for (int s = 0; s < BB_N_SUBLAYERS; s++) bb_free(db->gates[i].of[s]);
    bb_free(db->gates);
    db->gates = NULL;
}

bool bb_database_has_gates(const bb_database *db) { return db->gates != NULL; }

void bb_database_use_outputs(bb_database *db, bb_output_moments *m)
{
    bb_output_moments_done(&db->outputs);
    db->outputs = *m;
    *m = (bb_output_moments) { 0 };
}

const bb_output_moments *bb_database_outputs(const bb_database *db) { return db->outputs.at ? &db->outputs : NULL; }

bb_status bb_database_use_gates(bb_database *db, const bb_kept_order *order, bb_err *err)
{
    const bb_net *net = net_of(db);
    BB_ASSERT(!db->gates);
    if (!(db->gates = BB_NEW0(net->n_layer, bb_kept_order, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int s = 0; s < BB_N_SUBLAYERS; s++) {
            const uint32_t n = bb_block_kept(&net->blocks[i], (bb_sublayer)s);
            if (!n || !order[i].of[s]) continue;
            if (!(db->gates[i].of[s] = BB_NEW(n, uint32_t, err))) {
                free_gates(db);
                return BB_NOMEM;
            }
            memcpy(db->gates[i].of[s], order[i].of[s], n * sizeof(uint32_t));
        }
    return BB_OK;
}

bb_status bb_database_matrix(bb_database *db, uint32_t layer, bb_part part, bb_width width, bb_type type, bb_matrix *out, bb_quant_stats *stats, bb_err *err)
{
    const bb_net  *net = net_of(db);
    const uint32_t kept = bb_width_count(width);
    const key      k = { layer, (uint32_t)part, width, type };
    entry         *e;
    bb_status      status;
    *out = (bb_matrix) { 0 };
    if (stats) *stats = (bb_quant_stats) { 0 };
    BB_ASSERT(layer < net->n_layer && part < BB_N_PARTS);
    if (!bb_format_get(type)) return BB_FAIL(err, BB_UNSUPPORTED, "weight format %d is unknown", (int)type);
    if (kept > full_size(db, layer, part))
        return BB_FAIL(err, BB_UNSUPPORTED, "block %u has %u of what %s keeps, not %u", layer, full_size(db, layer, part), bb_parts[part].name, kept);
    if (kept == 0 || net->blocks[layer].w[part].rows == 0) return BB_OK;
    status = get_entry(db, &k, &e, err);
    if (status != BB_OK) return status;
    *out = e->matrix;
    if (stats) *stats = e->stats;
    return BB_OK;
}

bb_status bb_database_embedding(bb_database *db, bb_table table, bb_type type, bb_matrix *out, bb_quant_stats *stats, bb_err *err)
{
    static const uint32_t parts[BB_N_TABLES] = { [BB_TABLE_EMBD] = PART_EMBEDDING, [BB_TABLE_HEAD] = PART_HEAD, [BB_TABLE_TOKENS] = PART_TABLE };
    const bb_net         *net = net_of(db);
    const key             k = { net->n_layer, parts[table], 0, type };
    entry                *e;
    bb_status             status;
    *out = (bb_matrix) { 0 };
    if (stats) *stats = (bb_quant_stats) { 0 };
    if (!bb_format_get(type)) return BB_FAIL(err, BB_UNSUPPORTED, "weight format %d is unknown", (int)type);
    if (source_of(db, &k)->rows == 0) return BB_OK;
    status = get_entry(db, &k, &e, err);
    if (status != BB_OK) return status;
    *out = e->matrix;
    if (stats) *stats = e->stats;
    return BB_OK;
}

bb_status bb_database_option(bb_database *db, const bb_plan_unit *unit, uint32_t option, bb_matrix *out, double *error, bb_err *err)
{
    const bb_net  *net = net_of(db);
    const uint32_t value = unit->options[option].value, what = unit->what;
    bb_quant_stats stats = { 0 };
    bb_status      status = BB_OK;
    *out = (bb_matrix) { 0 };
    if (what >= BB_UNIT_EMBD) BB_TRY(bb_database_embedding(db, (bb_table)(what - BB_UNIT_EMBD), (bb_type)value, out, &stats, err));
    else {
        const bool     is_format = bb_unit_is_format(what);
        const bb_part  part = is_format ? (bb_part)what : bb_sublayers[bb_unit_sublayer(what)].writer;
        const bb_width kept = is_format ? bb_part_widest(net, &net->blocks[unit->layer], part, bb_format_get((bb_type)value)->block) : value;
        const bb_type  type = is_format ? (bb_type)value : net->blocks[unit->layer].w[part].type;
        BB_TRY(bb_database_matrix(db, unit->layer, part, kept, type, out, &stats, err));
        if (!is_format && out->rows == 0) stats.error = 1;
    }
    *error = stats.error;
done:
    return status;
}

bb_status bb_database_mask(bb_database *db, uint32_t layer, bool ffn, bb_width width, const uint32_t **channels, bb_err *err)
{
    const key k = { layer, ffn ? PART_FFN_MASK : PART_KV_MASK, width, BB_F32 };
    entry    *e;
    bb_status status;
    BB_ASSERT(layer < net_of(db)->n_layer && bb_width_count(width) <= (ffn ? net_of(db)->blocks[layer].n_ff : net_of(db)->blocks[layer].n_kv));
    status = get_entry(db, &k, &e, err);
    *channels = status == BB_OK ? e->channels : NULL;
    return status;
}

bb_status bb_database_tables(bb_database *db, bb_net *net, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_database_embedding(db, BB_TABLE_EMBD, net->embd.type, &net->embd, NULL, err));
    if (net->head.rows) BB_TRY(bb_database_embedding(db, BB_TABLE_HEAD, net->head.type, &net->head, NULL, err));
    if (net->token.width) BB_TRY(bb_database_embedding(db, BB_TABLE_TOKENS, net->token.table.type, &net->token.table, NULL, err));
done:
    return status;
}

/* Points the matrices of shapes and types at their entries. */
static bb_status fill_shape(bb_database *db, bb_net *out, bb_err *err)
{
    bb_block *blocks = out->blocks;
    bb_status status;
    BB_TRY(bb_database_tables(db, out, err));
    for (uint32_t i = 0; i < out->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            bb_matrix     *w = &blocks[i].w[p];
            const bb_width width = bb_part_width(&blocks[i], (bb_part)p);
            if (w->rows) BB_TRY(bb_database_matrix(db, i, (bb_part)p, width, w->type, w, NULL, err));
        }
done:
    return status;
}

bb_status bb_database_apply(bb_database *db, const bb_plan *plan, bb_net *out, bb_block *blocks, bb_err *err)
{
    bb_status status = bb_plan_shape(db->config.model, plan, out, blocks, err);
    return status == BB_OK ? fill_shape(db, out, err) : status;
}

bb_status bb_database_apply_at(bb_database *db, const bb_plan_space *s, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks,
                               bb_err *err)
{
    bb_plan_space_shape(db->config.model, s, x, unit, option, out, blocks);
    return fill_shape(db, out, err);
}

/* The tied embedding is read twice: as a head its errors count by the moments of the final hidden state, as an input by
 * themselves. Both are scaled to mean diagonal 1 and mixed; an untied head has the first only. */
static bb_status embedding_hessian(const bb_database *db, bb_hessian *out, bb_err *err)
{
    static const double input_share = 0.5;
    const bb_hessian   *h = &db->statistics.blocks[db->statistics.n_layer].in[0];
    const size_t        n = h->n_cols;
    const double        share = net_of(db)->head.rows ? 0 : input_share;
    double              mean = 0;
    *out = (bb_hessian) { .n_cols = h->n_cols, .n_tokens = h->n_tokens };
    out->h = BB_NEW(n * n, float, err);
    if (!out->h) return BB_NOMEM;
    for (size_t j = 0; j < n; j++) mean += (double)h->h[j * n + j] / (double)n;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) out->h[i * n + j] = (float)((1 - share) * (mean > 0 ? (double)h->h[i * n + j] / mean : 0) + (i == j ? share : 0));
    return BB_OK;
}

const bb_hessian *bb_database_moments(const bb_database *db, uint32_t layer, bb_feed feed) { return &db->statistics.blocks[layer].in[feed]; }

bb_status bb_database_open(const bb_database_config *config, bb_database **out, bb_err *err)
{
    bb_status    status = BB_OK;
    bb_database *db = BB_NEW0(1, bb_database, err);
    *out = NULL;
    if (!db) return BB_NOMEM;
    db->config = *config;
    pthread_mutex_init(&db->mutex, NULL);
    pthread_cond_init(&db->changed, NULL);
    db->dir = bb_strdup(config->dir, err);
    if (!db->dir) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_make_dirs(db->dir, err));
    const bb_statistics_config c = { db->dir, config->model, config->backend, config->tokens, config->n_windows, config->ctx, config->ffn_step, config->whole };
    BB_TRY(bb_statistics_open(&c, &db->statistics, err));
    *out = db;
done:
    if (status != BB_OK) bb_database_close(db);
    return status;
}

void bb_database_close(bb_database *db)
{
    if (!db) return;
    for (size_t i = 0; i < db->n_room; i++)
        if (db->table[i]) {
            clear_entry(db->table[i]);
            bb_free(db->table[i]);
        }
    for (int i = 0; i < CACHE_SLOTS; i++) drop_slot(&db->cache[i]);
    free_gates(db);
    bb_output_moments_done(&db->outputs);
    bb_statistics_close(&db->statistics);
    bb_free(db->table);
    bb_free(db->dir);
    pthread_mutex_destroy(&db->mutex);
    pthread_cond_destroy(&db->changed);
    bb_free(db);
}
