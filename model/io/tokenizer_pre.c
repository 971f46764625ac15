/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_pre.c: pre-tokenizers: the patterns that cut text into words before byte-level BPE. See tokenizer_parts.h.
 *
 * A pre-tokenizer is a list of patterns. The first cuts the whole text into its matches and what lies between them; each further pattern
 * cuts the pieces of the one before. The patterns are those published with each model's tokenizer, as llama.cpp applies them; spelled for
 * PCRE2 (UTF, Unicode properties). White space is spelled out: PCRE2's own \s also takes U+180E, which has not been white space since
 * Unicode 6.3. Unicode tables are those of the installed PCRE2 (14 or newer).
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/tokenizer_parts.h"

enum { MAX_PATTERNS = 6 };

#define WS "\\x{9}-\\x{D} \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define SPACE "[" WS "]"
#define LAST_SPACES SPACE "+(?![^" WS "])" /* white space, but not the last one before a word */
#define OTHER "[^" WS "\\p{L}\\p{N}]"      /* neither space, letter nor number */
#define SHORT "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define NOT_LINE_LETTER_NUMBER "[^\\r\\n\\p{L}\\p{N}]"
#define ENDING "|" SPACE "*[\\r\\n]+|" LAST_SPACES "|" SPACE "+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?" OTHER "+|" LAST_SPACES
#define LLAMA3 SHORT "|" NOT_LINE_LETTER_NUMBER "?\\p{L}+|\\p{N}{1,3}| ?" OTHER "+[\\r\\n]*" ENDING
#define QWEN2 SHORT "|" NOT_LINE_LETTER_NUMBER "?\\p{L}+|\\p{N}| ?" OTHER "+[\\r\\n]*" ENDING
#define QWEN35 SHORT "|" NOT_LINE_LETTER_NUMBER "?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" ENDING
#define SEED_CODER SHORT "|" NOT_LINE_LETTER_NUMBER "?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+" ENDING
#define BAILING SHORT "|" NOT_LINE_LETTER_NUMBER "?\\p{L}+|\\p{N}| ?" OTHER "+[\\r\\n]*|" SPACE "*[\\r\\n]|" LAST_SPACES "|" SPACE "+"
/* Letters but a-z, then letters but A-Z: what llama.cpp makes of "upper case, then lower case". */
#define UPPER "[^\\P{L}a-z]"
#define LOWER "[^\\P{L}A-Z]"
#define GPT4O \
    NOT_LINE_LETTER_NUMBER "?" UPPER "*" LOWER "+(?:" SHORT ")?|" NOT_LINE_LETTER_NUMBER "?" UPPER "+" LOWER "*(?:" SHORT ")?|\\p{N}{1,3}| ?" OTHER \
                           "+[\\r\\n/]*" ENDING
#define TEKKEN NOT_LINE_LETTER_NUMBER "?" UPPER "*" LOWER "+|" NOT_LINE_LETTER_NUMBER "?" UPPER "+" LOWER "*|\\p{N}| ?" OTHER "+[\\r\\n/]*" ENDING
#define DEEPSEEK3 "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" ENDING
/* U+0800..U+9FA5 and Hangul without white space, and the cased letters of the Unicode version that DeepSeek's tokenizer was made with. */
#define ASIAN \
    "[\\x{800}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}" \
    "\\x{3001}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+"
#define CASED \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}" \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}" \
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}" \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}" \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}" \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}" \
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}" \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}" \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}" \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}" \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}" \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}" \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"

typedef enum set {
    DEFAULT_SET,
    GPT2_SET,
    LLAMA3_SET,
    QWEN2_SET,
    QWEN35_SET,
    DIGIT_SET,
    FALCON_SET,
    DEEPSEEK_LLM_SET,
    DEEPSEEK_CODER_SET,
    DEEPSEEK3_SET,
    GPT4O_SET,
    TEKKEN_SET,
    SEED_CODER_SET,
    BAILING_SET,
    LINES_SET
} set;

static const char *const patterns[][MAX_PATTERNS] = {
    [DEFAULT_SET] = { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" },
    [GPT2_SET] = { GPT2 },
    [LLAMA3_SET] = { LLAMA3 },
    [QWEN2_SET] = { QWEN2 },
    [QWEN35_SET] = { QWEN35 },
    [DIGIT_SET] = { "\\p{N}", GPT2 },
    [FALCON_SET] = { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" },
    [DEEPSEEK_LLM_SET] = { "[\\r\\n]", SPACE "?[" CASED "]+", SPACE "?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3001}\\x{3002}]+",
                           SPACE "+\\z", ASIAN, "\\p{N}+" },
    [DEEPSEEK_CODER_SET] = { "[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", ASIAN, "\\p{N}" },
    [DEEPSEEK3_SET] = { "\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", DEEPSEEK3 },
    [GPT4O_SET] = { GPT4O },
    [TEKKEN_SET] = { TEKKEN },
    [SEED_CODER_SET] = { SEED_CODER },
    [BAILING_SET] = { BAILING },
    [LINES_SET] = { "[^\\n]+|\\n+" },
};

static const struct pre_row {
    const char *name;
    set         set;
    bb_pre_info info;
} rows[] = {
    { "default", DEFAULT_SET, { 0 } },
    { "llama-bpe", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "llama3", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "llama-v3", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "falcon3", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "falcon-h1", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "pixtral", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "midm-2.0", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "lfm2", LLAMA3_SET, { .ignore_merges = true, .add_bos = true } },
    { "dbrx", LLAMA3_SET, { 0 } },
    { "smaug-bpe", LLAMA3_SET, { 0 } },
    { "chatglm-bpe", LLAMA3_SET, { .no_bos = true } },
    { "glm4", LLAMA3_SET, { .no_bos = true } },
    { "qwen2", QWEN2_SET, { 0 } },
    { "deepseek-r1-qwen", QWEN2_SET, { 0 } },
    { "kormo", QWEN2_SET, { 0 } },
    { "megrez", QWEN2_SET, { 0 } },
    { "stablelm2", QWEN2_SET, { 0 } },
    { "hunyuan", QWEN2_SET, { 0 } },
    { "solar-open", QWEN2_SET, { 0 } },
    { "grok-2", QWEN2_SET, { 0 } },
    { "qwen35", QWEN35_SET, { 0 } },
    { "gpt-2", GPT2_SET, { 0 } },
    { "phi-2", GPT2_SET, { 0 } },
    { "mpt", GPT2_SET, { 0 } },
    { "olmo", GPT2_SET, { 0 } },
    { "jais", GPT2_SET, { 0 } },
    { "trillion", GPT2_SET, { 0 } },
    { "granite-docling", GPT2_SET, { 0 } },
    { "exaone4", GPT2_SET, { 0 } },
    { "gigachat", GPT2_SET, { 0 } },
    { "a.x-4.0", GPT2_SET, { 0 } },
    { "mellum", GPT2_SET, { 0 } },
    { "starcoder", DIGIT_SET, { 0 } },
    { "refact", DIGIT_SET, { 0 } },
    { "command-r", DIGIT_SET, { 0 } },
    { "smollm", DIGIT_SET, { 0 } },
    { "codeshell", DIGIT_SET, { 0 } },
    { "exaone", DIGIT_SET, { 0 } },
    { "minerva-7b", DIGIT_SET, { 0 } },
    { "mellum2", DIGIT_SET, { 0 } },
    { "falcon", FALCON_SET, { 0 } },
    { "deepseek-llm", DEEPSEEK_LLM_SET, { 0 } },
    { "deepseek-coder", DEEPSEEK_CODER_SET, { 0 } },
    { "deepseek-v3", DEEPSEEK3_SET, { 0 } },
    { "hunyuan-dense", DEEPSEEK3_SET, { 0 } },
    { "gpt-4o", GPT4O_SET, { 0 } },
    { "llama4", GPT4O_SET, { 0 } },
    { "kanana2", GPT4O_SET, { 0 } },
    { "minimax-m2", GPT4O_SET, { 0 } },
    { "tekken", TEKKEN_SET, { .ignore_merges = true, .add_bos = true } },
    { "seed-coder", SEED_CODER_SET, { 0 } },
    { "bailingmoe", BAILING_SET, { 0 } },
    { "bailingmoe2", BAILING_SET, { 0 } },
    { "llada-moe", BAILING_SET, { 0 } },
    { "gemma4", LINES_SET, { .add_bos = true } },
};

struct bb_pre {
    pcre2_code *code[MAX_PATTERNS];
    unsigned    n;
};

static bb_status compile(const char *pattern, pcre2_code **code, bb_err *err)
{
    int         error = 0;
    PCRE2_SIZE  at = 0;
    PCRE2_UCHAR message[128] = { 0 };
    *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
    if (!*code) {
        pcre2_get_error_message(error, message, sizeof message);
        return BB_FAIL(err, BB_FAILED, "PCRE2 refuses a pre-tokenizer pattern at offset %zu: %s", (size_t)at, (const char *)message);
    }
    pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is slower and the same */
    return BB_OK;
}

bb_status bb_pre_create(const char *name, size_t size, bb_pre **out, bb_pre_info *info, bb_err *err)
{
    bb_status             status = BB_OK;
    const struct pre_row *row = NULL;
    bb_pre               *pre = NULL;
    *out = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strlen(rows[i].name) == size && memcmp(rows[i].name, name, size) == 0) row = &rows[i];
    if (!row)
        return BB_FAIL(err, BB_UNSUPPORTED, "pre-tokenizer \"%s\" (tokenizer.ggml.pre) is not known",
                       bb_printable((bb_bytes) { name, size }, (char[41]) { 0 }));
    if (!(pre = bb_calloc(1, sizeof *pre, err))) return BB_NOMEM;
    for (; pre->n < MAX_PATTERNS && patterns[row->set][pre->n]; pre->n++) BB_TRY(compile(patterns[row->set][pre->n], &pre->code[pre->n], err));
    *info = row->info;
    *out = pre;
    pre = NULL;
done:
    bb_pre_destroy(pre);
    return status;
}

void bb_pre_destroy(bb_pre *pre)
{
    if (!pre) return;
    for (unsigned i = 0; i < MAX_PATTERNS; i++) pcre2_code_free(pre->code[i]);
    bb_free(pre);
}

typedef struct bb_ends {
    size_t *at, n, capacity;
} bb_ends;

static bb_status add_end(bb_ends *e, size_t at, bb_err *err)
{
    if (e->n == e->capacity) {
        size_t  capacity = e->capacity ? 2 * e->capacity : 256;
        size_t *bigger = bb_realloc(e->at, capacity, sizeof *bigger, err);
        if (!bigger) return BB_NOMEM;
        e->at = bigger;
        e->capacity = capacity;
    }
    e->at[e->n++] = at;
    return BB_OK;
}

/* Cuts text[first, end) by one pattern; a pattern sees nothing outside the piece. */
static bb_status cut(const pcre2_code *code, pcre2_match_data *match, const char *text, size_t first, size_t end, bb_ends *ends, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    at = 0, size = end - first;
    while (at < size) {
        int         rc = pcre2_match(code, (PCRE2_SPTR)(text + first), size, at, PCRE2_NO_UTF_CHECK, match, NULL);
        PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = pcre2_match(code, (PCRE2_SPTR)(text + first), size, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return BB_FAIL(err, BB_FAILED, "PCRE2 gave error %d while cutting text into words at byte %zu", rc, first + at);
        BB_ASSERT(range[1] > range[0]); /* no pattern of ours matches the empty text */
        if (range[0] > at) BB_TRY(add_end(ends, first + range[0], err));
        at = range[1];
        BB_TRY(add_end(ends, first + at, err));
    }
    if (at < size) BB_TRY(add_end(ends, end, err));
done:
    return status;
}

bb_status bb_pre_split(const bb_pre *pre, const char *text, size_t size, size_t **ends, size_t *n, bb_err *err)
{
    bb_status         status = BB_OK;
    bb_ends           pieces = { 0 }, next = { 0 };
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    *ends = NULL;
    *n = 0;
    if (!match) return BB_FAIL(err, BB_NOMEM, "out of memory: PCRE2 match data");
    if (size) BB_TRY(add_end(&pieces, size, err));
    for (unsigned p = 0; p < pre->n; p++) {
        bb_ends swap = next;
        size_t  first = 0;
        next = pieces;
        pieces = swap;
        pieces.n = 0;
        for (size_t i = 0; i < next.n; first = next.at[i++]) BB_TRY(cut(pre->code[p], match, text, first, next.at[i], &pieces, err));
    }
    *ends = pieces.at;
    *n = pieces.n;
    pieces.at = NULL;
done:
    bb_free(pieces.at);
    bb_free(next.at);
    pcre2_match_data_free(match);
    return status;
}
