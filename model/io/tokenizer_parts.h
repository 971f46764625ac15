/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_parts.h: what the tokenizer's files share: string table, output ids, the merge engine, the two kinds, the pre-tokenizers.
 *
 * tokenizer.c        vocabulary, special tokens, the public interface, detokenizing
 * tokenizer_special.c  special tokens found in text
 * tokenizer_merge.c  string table; the merge loop (priority queue) that both kinds use
 * tokenizer_spm.c    SentencePiece-BPE: merges by score, byte fallback
 * tokenizer_bpe.c    byte-level BPE: merges by rank
 * tokenizer_pre.c    the patterns that cut text into words before byte-level BPE
 */
#ifndef BB_MODEL_IO_TOKENIZER_PARTS_H
#define BB_MODEL_IO_TOKENIZER_PARTS_H

#include "base/table.h"
#include "model/io/tokenizer.h"

#define BB_NONE UINT32_MAX

/* Texts numbered in order of arrival and found by content. Texts are borrowed. */
typedef struct bb_strings {
    bb_bytes *text;
    uint32_t  n, capacity;
    bb_table  numbers; /* of texts; of equal ones the first */
} bb_strings;

bb_status bb_strings_reserve(bb_strings *s, uint32_t n, bb_err *err);          /* room for n texts in all */
uint32_t  bb_strings_find(const bb_strings *s, const char *text, size_t size); /* BB_NONE when absent */
/* Adds even when the text is there already (find then gives the first); room must be reserved. */
uint32_t bb_strings_add(bb_strings *s, bb_bytes text);
void     bb_strings_done(bb_strings *s);

typedef struct bb_ids {
    int32_t *data;
    size_t   n, capacity;
} bb_ids; /* output; zero-initialise */
bb_status bb_ids_add(bb_ids *ids, int32_t id, bb_err *err);

/* ---- the merge engine ----
 * A row of symbols covers a piece of text. Of all neighbours that may merge, the pair of lowest priority number merges first, and among
 * equals the leftmost; the merged symbol takes the place of the left one; and so on until no pair may merge. O(n log n). */
typedef struct bb_symbol {
    size_t   at;         /* first byte in the text */
    uint32_t size;       /* bytes; 0: merged into a symbol on the left */
    uint32_t id;         /* the kind's own number; BB_NONE: none */
    uint32_t prev, next; /* BB_NONE at the ends */
} bb_symbol;

typedef struct bb_candidate {
    uint64_t key;
    uint32_t right, size, id;
} bb_candidate; /* key: priority, left symbol */

typedef struct bb_merger {
    bb_symbol    *symbol;
    size_t        n, capacity;
    bb_candidate *heap; /* a binary heap, least key first */
    size_t        n_heap, heap_capacity;
} bb_merger; /* zero-initialise */

/* May left and right merge? Then the priority and the id of the result. */
typedef bool (*bb_pair)(const bb_tokenizer *t, const char *text, const bb_symbol *left, const bb_symbol *right, uint32_t *priority, uint32_t *id);

void      bb_merger_clear(bb_merger *m);
bb_status bb_merger_add(bb_merger *m, size_t at, uint32_t size, uint32_t id, bb_err *err); /* appends a symbol */
bb_status bb_merger_run(bb_merger *m, const bb_tokenizer *t, const char *text, bb_pair pair, bb_err *err);
void      bb_merger_done(bb_merger *m);

/* A text of an untrusted file for a message: at most 40 bytes, what is not printable ASCII as '?'. */
const char *bb_printable(bb_bytes text, char out[41]);

/* ---- the two kinds ---- */
enum { BB_LONGEST_TEXT = 1 << 30 }; /* bytes a call may tokenize: symbol numbers and sizes stay in 32 bits */

typedef struct bb_pre bb_pre; /* compiled pre-tokenizer */
typedef struct bb_pre_info {
    bool ignore_merges, add_bos, no_bos;
} bb_pre_info;

bb_status bb_pre_create(const char *name, size_t size, bb_pre **pre, bb_pre_info *info, bb_err *err); /* BB_UNSUPPORTED: unknown name */
void      bb_pre_destroy(bb_pre *pre);
/* Ends (byte offsets, ascending, the last is size) of the words of valid UTF-8 text; *ends is freed with bb_free. */
bb_status bb_pre_split(const bb_pre *pre, const char *text, size_t size, size_t **ends, size_t *n, bb_err *err);

enum {
    BB_ATTR_NORMAL = 1,
    BB_ATTR_UNKNOWN = 2,
    BB_ATTR_CONTROL = 4,
    BB_ATTR_USER = 8,
    BB_ATTR_UNUSED = 16,
    BB_ATTR_BYTE = 32,
    BB_ATTR_STRIP_RIGHT = 64, /* swallows the white space that follows */
    BB_ATTR_END = 128         /* ends what a model writes */
};

/* ---- special tokens ---- */
typedef struct bb_special_set bb_special_set;
typedef struct bb_place {
    uint64_t at, end;
    uint32_t id;
} bb_place; /* of a special token; end: with the white space that it swallows */
typedef struct bb_places {
    bb_place *item;
    size_t    n, capacity;
} bb_places; /* zero-initialise; item is freed with bb_free */

bb_status bb_special_set_create(const bb_tokenizer *t, bb_special_set **out, bb_err *err); /* of t->special; *out may be half made after a failure */
void      bb_special_set_destroy(bb_special_set *s);
/* All places in the order of the text. parse_special false: of user-defined tokens only. */
bb_status bb_special_places(const bb_tokenizer *t, const char *text, size_t size, bool parse_special, bb_places *p, bb_err *err);

typedef struct bb_rank {
    uint64_t pair;
    uint32_t rank, id;
} bb_rank; /* pair = left << 32 | right */

struct bb_tokenizer {
    bool            bpe;        /* else SentencePiece */
    bool            characters; /* bpe, of the characters of the text itself, with U+2581 for spaces, and of bytes where there is no token (Gemma 4) */
    uint32_t        n_vocab;
    bb_strings      strings; /* 0 .. n_vocab-1 the vocabulary (borrowed from the file); bpe: then texts that only merges name */
    float          *score;   /* spm [n_vocab] */
    unsigned char  *attr;    /* [n_vocab] BB_ATTR_ bits */
    uint32_t       *special; /* tokens found in text before all else, by id */
    uint32_t        n_special;
    bb_special_set *specials;      /* how they are found; NULL: there is none */
    int32_t         bos, eos, unk; /* -1: none */
    bool            add_bos, add_eos, add_space_prefix;
    int32_t         byte_id[256]; /* spm: token of a byte, -1 none; bpe: string number of the byte's symbol */
    unsigned char  *joins;        /* spm: bit set over hashed pairs of characters that stand side by side in some token */
    /* bpe */
    bb_pre  *pre;
    bool     ignore_merges;
    bb_rank *ranks; /* in order of the merges */
    uint32_t n_ranks;
    bb_table rank_of;         /* the rank of a pair */
    char    *merged;          /* texts of the merge results */
    char     spelled[256][2]; /* texts of the byte symbols that are no tokens */
};

bb_status bb_spm_load(bb_tokenizer *t, bb_err *err);
bb_status bb_spm_tokenize(const bb_tokenizer *t, const char *text, size_t size, bool space_first, bb_merger *m, bb_ids *out, bb_err *err);
bb_status bb_bpe_load(bb_tokenizer *t, const bb_source *g, bb_err *err);
bb_status bb_bpe_tokenize(const bb_tokenizer *t, const char *text, size_t size, bb_merger *m, bb_ids *out, bb_err *err);
/* GPT-2's map of the 256 bytes to printable characters, and back (-1: no such character). */
uint32_t bb_bpe_character(unsigned char byte);
int      bb_bpe_byte(uint32_t character);
/* Bytes of the UTF-8 character that begins with lead, as its lead byte says (stray continuation bytes: 1). */
unsigned bb_utf8_size(unsigned char lead);

#endif
