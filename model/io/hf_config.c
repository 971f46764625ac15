/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_config.c: config.json as the keys of GGUF: see hf_parts.h. What it asks for and this program does not compute is refused by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/hf_parts.h"

/* New rows need a row of model/net/arch.c with the name of `arch`. */
static const bb_hf_arch archs[] = {
    { .model_type = "llama", .arch = "llama", .pairs = true, .rope_theta = 1e4 },
    { .model_type = "mistral", .arch = "llama", .pairs = true, .rope_theta = 1e4 },
    { .model_type = "qwen2", .arch = "qwen2", .rope_theta = 1e4 },
    { .model_type = "qwen3", .arch = "qwen3", .rope_theta = 1e4 },
    { .model_type = "smollm3", .arch = "smollm3", .pairs = true, .no_rope_every = 4, .tied = true, .rope_theta = 2e6 },
    { .model_type = "granite", .arch = "granite", .pairs = true, .factors = true, .rope_theta = 1e4 },
    { .model_type = "phi3", .arch = "phi3", .two_factors = true, .as_said = true, .rope_theta = 1e4 },
    { .model_type = "ministral3", .arch = "mistral3", .pairs = true, .own_yarn = true, .rope_theta = 1e6 },
    { .model_type = "olmo2", .arch = "olmo2", .post_norms = true, .rope_theta = 1e4 },
    { .model_type = "gemma3_text",
      .arch = "gemma3",
      .post_norms = true,
      .norms_less_1 = true,
      .windows = true,
      .tied = true,
      .rope_theta = 1e6,
      .n_head = 8,
      .n_kv = 4,
      .head_dim = 256,
      .n_vocab = 262208,
      .context = 131072 },
    { .model_type = "gemma4_text",
      .arch = "gemma4",
      .post_norms = true,
      .own_kinds = true,
      .windows = true,
      .tied = true,
      .rope_theta = 1e6,
      .n_head = 8,
      .n_kv = 4,
      .head_dim = 256,
      .n_vocab = 262144,
      .context = 131072 },
};
enum { N_ARCHS = sizeof archs / sizeof *archs, KEY_BYTES = 96 };

const bb_hf_arch *bb_hf_arch_at(size_t i) { return i < N_ARCHS ? &archs[i] : NULL; }

typedef struct reader {
    const json_t *root; /* of the language model */
    bb_hf_config *c;
    bb_gguf_out  *out;
} reader;

static const char *key_of(const reader *r, const char *suffix, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "%s.%s", r->c->arch->arch, suffix);
    return key;
}

static bool absent(const json_t *v) { return !v || json_is_null(v); }

/* A value as the file has it, for a sentence that says what was found. */
static const char *shown_of(const json_t *v, char shown[BB_SHOWN])
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    (void)bb_show(text ? (bb_bytes) { text, strlen(text) } : (bb_bytes) { "a value", 7 }, shown);
    free(text);
    return shown;
}

/* A whole number of least..most; absent: fallback, or an error when that is 0. */
static bb_status whole(const json_t *from, const char *name, uint32_t least, uint32_t most, uint32_t fallback, uint32_t *out, bb_err *err)
{
    const json_t *v = json_object_get(from, name);
    char          shown[BB_SHOWN];
    if (absent(v) && fallback) {
        *out = fallback;
        return BB_OK;
    }
    if (!json_is_integer(v) || json_integer_value(v) < (json_int_t)least || json_integer_value(v) > (json_int_t)most)
        return BB_FAIL(err, BB_BAD_FILE, "'%s' is %s; a whole number of %u to %u is needed", name, absent(v) ? "missing" : shown_of(v, shown), least, most);
    *out = (uint32_t)json_integer_value(v);
    return BB_OK;
}

static bb_status real(const json_t *from, const char *name, double fallback, double *out, bb_err *err)
{
    const json_t *v = json_object_get(from, name);
    char          shown[BB_SHOWN];
    *out = absent(v) ? fallback : json_number_value(v);
    if (!absent(v) && !json_is_number(v)) return BB_FAIL(err, BB_BAD_FILE, "'%s' is %s; a number is needed", name, shown_of(v, shown));
    if (!isfinite(*out)) return BB_FAIL(err, BB_BAD_FILE, "'%s' is missing; a number is needed", name);
    return BB_OK;
}

static bb_status text_of(const json_t *from, const char *name, const char **out, bb_err *err)
{
    const json_t *v = json_object_get(from, name);
    char          shown[BB_SHOWN];
    *out = json_string_value(v);
    if (!absent(v) && !*out) return BB_FAIL(err, BB_BAD_FILE, "'%s' is %s; a text is needed", name, shown_of(v, shown));
    return BB_OK;
}

/* true or false; absent: fallback. */
static bb_status flag(const json_t *from, const char *name, bool fallback, bool *out, bb_err *err)
{
    const json_t *v = json_object_get(from, name);
    char          shown[BB_SHOWN];
    *out = absent(v) ? fallback : json_is_true(v);
    return absent(v) || json_is_boolean(v) ? BB_OK : BB_FAIL(err, BB_BAD_FILE, "'%s' is %s; true or false is needed", name, shown_of(v, shown));
}

const json_t *bb_hf_text_config(const json_t *root)
{
    const json_t *text = json_object_get(root, "text_config");
    return json_is_object(text) ? text : root;
}

static bb_status find_arch(reader *r, const json_t *root, bb_err *err)
{
    const char *type, *method;
    char        known[256] = "", shown[BB_SHOWN];
    bb_status   status;
    BB_TRY(text_of(r->root, "model_type", &type, err));
    if (!type) return BB_FAIL(err, BB_BAD_FILE, "'model_type' is missing: this is no language model of Hugging Face's transformers");
    for (size_t i = 0, n = 0; i < N_ARCHS; i++) {
        if (strcmp(type, archs[i].model_type) == 0) r->c->arch = &archs[i];
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : i + 1 < N_ARCHS ? ", " : " and ", archs[i].model_type);
    }
    if (!r->c->arch) return BB_FAIL(err, BB_UNSUPPORTED, "model_type '%s' is not supported; %s are", bb_show((bb_bytes) { type, strlen(type) }, shown), known);
    const json_t *quantized = json_object_get(root, "quantization_config");
    if (absent(quantized)) quantized = json_object_get(r->root, "quantization_config");
    if (!absent(quantized)) {
        BB_TRY(text_of(quantized, "quant_method", &method, err));
        if (!method) method = "unknown";
        return BB_FAIL(err, BB_UNSUPPORTED, "its weights are quantized already (%s); the unquantized model is needed",
                       bb_show((bb_bytes) { method, strlen(method) }, shown));
    }
done:
    return status;
}

/* ---- RoPE ---- */

/* Llama 3.1's: frequencies with long waves are divided by `factor`, those with short ones stay, between them a line. */
static bb_status llama3_factors(reader *r, const json_t *scaling, double base, bb_err *err)
{
    const uint32_t n = r->c->head_dim / 2;
    const double   turn = 2 * 3.14159265358979323846;
    double         factor, low, high, context;
    bb_status      status;
    BB_TRY(real(scaling, "factor", 8, &factor, err));
    BB_TRY(real(scaling, "low_freq_factor", 1, &low, err));
    BB_TRY(real(scaling, "high_freq_factor", 4, &high, err));
    BB_TRY(real(scaling, "original_max_position_embeddings", 8192, &context, err));
    if (!(factor > 0 && low > 0 && high > low && context > 0))
        return BB_FAIL(err, BB_BAD_FILE, "rope_scaling of type llama3 has factor %g, low %g, high %g, context %g: all must be above 0, and high above low",
                       factor, low, high, context);
    if (!(r->c->rope_factors = BB_NEW(n, float, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        /* the converter has frequencies in float32 */
        const double wave = turn / (double)(1.0f / powf((float)base, (float)(2 * i) / (float)r->c->head_dim));
        const double smooth = (context / wave - low) / (high - low);
        r->c->rope_factors[i] = (float)(wave < context / high ? 1 : wave > context / low ? factor : 1 / ((1 - smooth) / factor + smooth));
    }
done:
    return status;
}

/* "long_factor": [1.0, ...], n_rot / 2 numbers above 0. */
static bb_status factor_list(const reader *r, const json_t *scaling, const char *name, float **out, bb_err *err)
{
    const json_t *list = json_object_get(scaling, name);
    const size_t  n = r->c->n_rot / 2;
    if (!json_is_array(list) || json_array_size(list) != n) return BB_FAIL(err, BB_BAD_FILE, "'%s' of the RoPE scaling is no list of %zu numbers", name, n);
    if (!(*out = BB_NEW(n, float, err))) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = (float)json_number_value(json_array_get(list, i));
        if (!((*out)[i] > 0) || !isfinite((*out)[i])) return BB_FAIL(err, BB_BAD_FILE, "number %zu in '%s' is none above 0", i, name);
    }
    return BB_OK;
}

static bool close_to(double x, double y) { return fabs(x - y) <= 1e-4 * fabs(y); }

/* The converter, and llama.cpp, take the factor of extension from the two contexts, and from it the magnitude. */
static bb_status longrope(reader *r, const json_t *scaling, double context, bb_err *err)
{
    const double extended = r->c->context / context, right = extended > 1 ? sqrt(1 + log(extended) / log(context)) : 1;
    double       factor, attention;
    char         key[KEY_BYTES];
    bb_status    status;
    BB_TRY(real(scaling, "factor", extended, &factor, err));
    BB_TRY(real(scaling, "attention_factor", right, &attention, err));
    if (!close_to(factor, extended) || !close_to(attention, right))
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "RoPE of type longrope with factor %g and attention_factor %g; %g and %g follow from the contexts, and only they can be "
                       "written",
                       factor, attention, extended, right);
    BB_TRY(factor_list(r, scaling, "short_factor", &r->c->rope_factors, err));
    BB_TRY(factor_list(r, scaling, "long_factor", &r->c->rope_long, err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.scaling.attn_factor", key), (float)right, err));
done:
    return status;
}

/* What config.json says of it as keys; what llama.cpp would not read of them, the loader refuses. */
static bb_status yarn(reader *r, const json_t *scaling, double context, bb_err *err)
{
    static const char *const keys[][2] = { { "extrapolation_factor", "rope.scaling.yarn_ext_factor" },
                                           { "attention_factor", "rope.scaling.yarn_attn_factor" },
                                           { "beta_fast", "rope.scaling.yarn_beta_fast" },
                                           { "beta_slow", "rope.scaling.yarn_beta_slow" } };
    const bb_hf_arch        *arch = r->c->arch;
    double                   factor, x, scale, all;
    bool                     truncate;
    char                     key[KEY_BYTES];
    bb_status                status;
    if (absent(json_object_get(scaling, "factor"))) return BB_FAIL(err, BB_UNSUPPORTED, "RoPE of type yarn has no 'factor', which is needed");
    BB_TRY(real(scaling, "factor", 1, &factor, err));
    if (!(factor > 0 && context >= 1 && context <= UINT32_MAX))
        return BB_FAIL(err, BB_BAD_FILE, "RoPE of type yarn has factor %g and context %g: both must be above 0, and the context below 2^32", factor, context);
    BB_TRY(flag(scaling, "truncate", true, &truncate, err));
    if (!truncate) return BB_FAIL(err, BB_UNSUPPORTED, "'truncate' of the RoPE scaling is false; only whole pairs are supported");
    BB_TRY(real(scaling, "mscale", 0, &scale, err));
    BB_TRY(real(scaling, "mscale_all_dim", 0, &all, err));
    if (scale > 0 && all > 0 && !(arch->own_yarn ? close_to(scale, 1) : close_to(scale, all)))
        return BB_FAIL(err, BB_UNSUPPORTED, "'mscale' %g and 'mscale_all_dim' %g of the RoPE scaling cannot be written for architecture %s", scale, all,
                       arch->arch);
    BB_TRY(bb_gguf_put_text(r->out, key_of(r, "rope.scaling.type", key), "yarn", err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.scaling.factor", key), (float)factor, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "rope.scaling.original_context_length", key), (uint32_t)context, err));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (absent(json_object_get(scaling, keys[i][0]))) continue;
        BB_TRY(real(scaling, keys[i][0], 0, &x, err));
        BB_TRY(bb_gguf_put_f32(r->out, key_of(r, keys[i][1], key), (float)x, err));
    }
    if (!arch->own_yarn) goto done;
    BB_TRY(real(scaling, "llama_4_scaling_beta", 0, &x, err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.scaling.yarn_log_multiplier", key), (float)all, err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "attention.temperature_scale", key), (float)x, err));
done:
    return status;
}

/* Gemma 4's: heads are turned whole, but for that the pairs behind a share of them are turned by nothing. */
static bb_status proportional_factors(reader *r, double share, bb_err *err)
{
    if (!(share >= 0 && share <= 1)) return BB_FAIL(err, BB_BAD_FILE, "'partial_rotary_factor' is %g; 0 to 1 is possible", share);
    const uint32_t n = r->c->head_dim_full / 2, turned = (uint32_t)(share * r->c->head_dim_full / 2);
    if (!(r->c->rope_factors = BB_NEW(n, float, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) r->c->rope_factors[i] = i < turned ? 1 : 1e30f;
    r->c->n_rot = r->c->head_dim_full;
    return BB_OK;
}

static bb_status read_rope(reader *r, bb_err *err)
{
    const bb_hf_arch *arch = r->c->arch;
    /* transformers 5 has everything in rope_parameters, older ones rope_theta and rope_scaling */
    const json_t *parameters = json_object_get(r->root, "rope_parameters"),
                 *scaling = absent(parameters) ? json_object_get(r->root, "rope_scaling") : parameters;
    const char *type = NULL, *old_type = NULL;
    double      base, factor, partial, context;
    char        key[KEY_BYTES], shown[BB_SHOWN];
    bb_status   status;
    bool        proportional;
    if (arch->windows && json_is_object(json_object_get(parameters, "full_attention"))) scaling = parameters = json_object_get(parameters, "full_attention");
    if (!absent(scaling) && !json_is_object(scaling))
        return BB_FAIL(err, BB_BAD_FILE, "'%s' is no object", absent(parameters) ? "rope_scaling" : "rope_parameters");
    BB_TRY(real(absent(json_object_get(parameters, "rope_theta")) ? r->root : parameters, "rope_theta", r->c->arch->rope_theta, &base, err));
    if (!(base > 0)) return BB_FAIL(err, BB_BAD_FILE, "'rope_theta' is %g; it must be above 0", base);
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.freq_base", key), (float)base, err));
    BB_TRY(real(absent(json_object_get(parameters, "partial_rotary_factor")) ? r->root : parameters, "partial_rotary_factor", 1, &partial, err));
    BB_TRY(text_of(scaling, "rope_type", &type, err));
    proportional = arch->own_kinds && type && strcmp(type, "proportional") == 0;
    if (arch->own_kinds) {
        if (absent(parameters)) BB_TRY(proportional_factors(r, 0.25, err));
        else if (proportional) BB_TRY(proportional_factors(r, partial, err));
        else
            return BB_FAIL(err, BB_UNSUPPORTED, "RoPE of blocks without a window is of type '%s'; proportional is supported",
                           type ? bb_show((bb_bytes) { type, strlen(type) }, shown) : "default");
        goto done;
    }
    if (!arch->two_factors && (partial < 1 || partial > 1))
        return BB_FAIL(err, BB_UNSUPPORTED, "'partial_rotary_factor' is %g; only whole heads are rotated", partial);
    if (!(partial > 0 && partial <= 1)) return BB_FAIL(err, BB_BAD_FILE, "'partial_rotary_factor' is %g; above 0 up to 1 is possible", partial);
    r->c->n_rot = (uint32_t)(partial * r->c->head_dim);
    if (r->c->n_rot == 0 || r->c->n_rot % 2) return BB_FAIL(err, BB_BAD_FILE, "'partial_rotary_factor' %g leaves %u numbers of a head", partial, r->c->n_rot);
    if (arch->pairs || arch->two_factors) BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "rope.dimension_count", key), r->c->n_rot, err));
    BB_TRY(real(r->root, "original_max_position_embeddings", arch->two_factors ? 4096 : 0, &context, err));
    BB_TRY(real(scaling, "original_max_position_embeddings", context, &context, err));
    if (arch->two_factors) {
        uint32_t window;
        BB_TRY(whole(r->root, "sliding_window", 0, INT32_MAX, UINT32_MAX, &window, err));
        if (!(context > 1 && context <= UINT32_MAX)) return BB_FAIL(err, BB_BAD_FILE, "'original_max_position_embeddings' is %g", context);
        BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "rope.scaling.original_context_length", key), (uint32_t)context, err));
        BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.sliding_window", key), window == UINT32_MAX ? 0 : window, err));
    }
    BB_TRY(text_of(scaling, "type", &old_type, err));
    BB_TRY(text_of(scaling, "rope_type", &type, err));
    if (!type) type = old_type ? old_type : "default";
    if (arch->two_factors && (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0)) {
        BB_TRY(longrope(r, scaling, context, err));
        goto done;
    }
    if (strcmp(type, "yarn") == 0 && !arch->two_factors) {
        if (context <= 0) return BB_FAIL(err, BB_UNSUPPORTED, "RoPE of type yarn has no 'original_max_position_embeddings', which is needed");
        BB_TRY(yarn(r, scaling, context, err));
        goto done;
    }
    if (arch->own_yarn)
        return BB_FAIL(err, BB_UNSUPPORTED, "RoPE of a %s is of type '%s'; yarn is needed", arch->model_type,
                       bb_show((bb_bytes) { type, strlen(type) }, shown));
    if (strcmp(type, "default") == 0) goto done;
    if (arch->two_factors)
        return BB_FAIL(err, BB_UNSUPPORTED, "RoPE scaling '%s' of a %s is not supported; default and longrope are",
                       bb_show((bb_bytes) { type, strlen(type) }, shown), arch->model_type);
    if (strcmp(type, "llama3") == 0) {
        BB_TRY(llama3_factors(r, scaling, base, err));
        goto done;
    }
    if (strcmp(type, "linear") != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "RoPE scaling '%s' is not supported; default, linear, yarn and llama3 are",
                       bb_show((bb_bytes) { type, strlen(type) }, shown));
    BB_TRY(real(scaling, "factor", NAN, &factor, err));
    if (!((float)factor > 0)) return BB_FAIL(err, BB_BAD_FILE, "'factor' of the RoPE scaling is %g; it must be above 0", factor);
    BB_TRY(bb_gguf_put_text(r->out, key_of(r, "rope.scaling.type", key), "linear", err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.scaling.factor", key), (float)factor, err));
done:
    return status;
}

/* ---- windows ---- */

/* Does block i have a window? By the list of the kinds of blocks, or the length of the period whose last block has none. */
static bb_status window_at(const reader *r, uint32_t i, uint32_t period, bool *has, bb_err *err)
{
    const json_t *types = json_object_get(r->root, "layer_types");
    const char   *type = json_string_value(json_array_get(types, i));
    char          shown[BB_SHOWN];
    *has = (i + 1) % period != 0;
    if (r->c->arch->own_kinds && i + 1 == r->c->n_layer) { /* whatever the list says */
        *has = false;
        return BB_OK;
    }
    if (absent(types)) return BB_OK;
    if (!type) return BB_FAIL(err, BB_BAD_FILE, "'layer_types' says nothing of block %u", i);
    *has = strcmp(type, "sliding_attention") == 0;
    if (*has || strcmp(type, "full_attention") == 0) return BB_OK;
    return BB_FAIL(err, BB_UNSUPPORTED, "'layer_types' has '%s' at block %u; full_attention and sliding_attention are supported",
                   bb_show((bb_bytes) { type, strlen(type) }, shown), i);
}

/* GGUF needs a list of the blocks for Gemma 4, and for others a period that is not 6. */
static bb_status read_windows(reader *r, bb_err *err)
{
    static const char *const bases = "rope_local_base_freq";
    const json_t            *local = json_object_get(json_object_get(r->root, "rope_parameters"), "sliding_attention");
    const char              *type = NULL;
    uint32_t                 window, period, list[512];
    double                   base;
    bool                     has[512], any = false;
    char                     key[KEY_BYTES], shown[BB_SHOWN];
    bb_status                status = BB_OK;
    if (!r->c->arch->windows) goto done;
    BB_TRY(whole(r->root, "sliding_window", 1, INT32_MAX, r->c->arch->own_kinds ? 512 : 4096, &window, err));
    BB_TRY(whole(r->root, "_sliding_window_pattern", 1, INT32_MAX, 6, &period, err));
    BB_TRY(whole(r->root, "sliding_window_pattern", 1, INT32_MAX, period, &period, err));
    for (uint32_t i = 0; i < r->c->n_layer; i++) {
        BB_TRY(window_at(r, i, period, &has[i], err));
        list[i] = has[i];
        any |= has[i];
    }
    if (!any && !r->c->arch->own_kinds) goto done;
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.sliding_window", key), window, err));
    period = bb_window_period(has, r->c->n_layer, 6);
    if (r->c->arch->own_kinds) BB_TRY(bb_gguf_put_u32_array(r->out, key_of(r, "attention.sliding_window_pattern", key), list, r->c->n_layer, err));
    else if (!period)
        return BB_FAIL(err, BB_UNSUPPORTED, "'layer_types' of a %s gives a window to others than all but each second, third, ... block, which GGUF cannot say",
                       r->c->arch->model_type);
    else if (period != 6) BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.sliding_window_pattern", key), period, err));
    BB_TRY(text_of(local, "rope_type", &type, err));
    if (type && strcmp(type, "default") != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "RoPE of blocks with a window is of type '%s'; default is supported",
                       bb_show((bb_bytes) { type, strlen(type) }, shown));
    if (!json_is_object(local) && absent(json_object_get(r->root, bases))) goto done; /* llama.cpp's default is the library's */
    BB_TRY(real(json_is_object(local) ? local : r->root, json_is_object(local) ? "rope_theta" : bases, 1e4, &base, err));
    if (!(base > 0)) return BB_FAIL(err, BB_BAD_FILE, "the RoPE base of blocks with a window is %g; it must be above 0", base);
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "rope.freq_base_swa", key), (float)base, err));
done:
    return status;
}

/* ---- what else changes the computation ---- */

/* What llama.cpp takes for granted of such a model. */
static bb_status check_gemma(reader *r, bb_err *err)
{
    static const char *const caps[] = { "final_logit_softcapping", "attn_logit_softcapping" };
    const bb_hf_config      *c = r->c;
    const char              *act;
    const char              *whom;
    const uint32_t           usual = c->n_layer == 62 ? c->n_embd / c->n_head : c->head_dim; /* its 27B is told by the number of blocks */
    double                   x;
    bool                     both_ways;
    char                     key[KEY_BYTES], shown[BB_SHOWN];
    bb_status                status = BB_OK;
    if (!c->arch->windows) goto done;
    BB_TRY(text_of(r->root, "hidden_activation", &act, err));
    if (act && strcmp(act, "gelu_pytorch_tanh") != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "'hidden_activation' is '%s'; only gelu_pytorch_tanh is supported",
                       bb_show((bb_bytes) { act, strlen(act) }, shown));
    BB_TRY(real(r->root, "query_pre_attn_scalar", c->arch->own_kinds ? usual : 256, &x, err));
    if (x < usual || x > usual) return BB_FAIL(err, BB_UNSUPPORTED, "'query_pre_attn_scalar' is %g; llama.cpp computes such a model with %u", x, usual);
    whom = c->arch->own_kinds ? json_string_value(json_object_get(r->root, "use_bidirectional_attention")) : NULL;
    if (whom) both_ways = strcmp(whom, "vision") != 0; /* of pictures, which are not read */
    else BB_TRY(flag(r->root, "use_bidirectional_attention", false, &both_ways, err));
    if (both_ways) return BB_FAIL(err, BB_UNSUPPORTED, "'use_bidirectional_attention' is true; only causal attention is supported");
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) {
        BB_TRY(real(r->root, caps[i], 0, &x, err));
        if (x > 0 && i == 0) BB_TRY(bb_gguf_put_f32(r->out, key_of(r, caps[i], key), (float)x, err));
        else if (x < 0 || x > 0)
            return BB_FAIL(err, BB_UNSUPPORTED, "'%s' is %g; %s", caps[i], x,
                           i ? "llama.cpp does not cap the scores of attention of such a model" : "it must not be negative");
    }
done:
    return status;
}

static bb_status check_layers(const reader *r, bb_err *err)
{
    const json_t  *types = json_object_get(r->root, "layer_types"), *rope = json_object_get(r->root, "no_rope_layers");
    const uint32_t every = r->c->arch->no_rope_every;
    json_t        *v;
    size_t         i;
    char           shown[BB_SHOWN];
    json_array_foreach(types, i, v) if (!r->c->arch->windows && json_is_string(v) && strcmp(json_string_value(v), "full_attention") != 0) return BB_FAIL(
        err, BB_UNSUPPORTED, "'layer_types' has '%s' at block %zu; only full attention is supported",
        bb_show((bb_bytes) { json_string_value(v), json_string_length(v) }, shown), i);
    if (every && absent(rope)) { /* what the list is made from, then */
        uint32_t  interval;
        bb_status status = whole(r->root, "no_rope_layer_interval", 1, UINT32_MAX, every, &interval, err);
        if (status != BB_OK) return status;
        if (interval != every)
            return BB_FAIL(err, BB_UNSUPPORTED, "'no_rope_layer_interval' is %u; only no RoPE in every %uth block can be written", interval, every);
    }
    if (every && json_is_array(rope))
        json_array_foreach(rope, i, v) if ((json_integer_value(v) == 0) != ((i + 1) % every == 0)) return BB_FAIL(
            err, BB_UNSUPPORTED, "'no_rope_layers' says %d at block %zu; only no RoPE in every %uth block can be written", (int)json_integer_value(v), i,
            every);
    return BB_OK;
}

static bb_status check_rest(const reader *r, bb_err *err)
{
    const char *act;
    bool        slides;
    char        shown[BB_SHOWN];
    bb_status   status;
    BB_TRY(text_of(r->root, "hidden_act", &act, err));
    if (act && !r->c->arch->windows && strcmp(act, "silu") != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "'hidden_act' is '%s'; only silu is supported", bb_show((bb_bytes) { act, strlen(act) }, shown));
    BB_TRY(flag(r->root, "use_sliding_window", false, &slides, err));
    if (slides) return BB_FAIL(err, BB_UNSUPPORTED, "'use_sliding_window' is true; only full attention is supported");
    BB_TRY(check_layers(r, err));
done:
    return status;
}

/* ---- shapes ---- */

/* As the library has them: 1 where config.json says nothing. */
static bb_status read_factors(reader *r, bb_err *err)
{
    static const char *const names[][2] = { { "attention_multiplier", "attention.scale" },
                                            { "embedding_multiplier", "embedding_scale" },
                                            { "residual_multiplier", "residual_scale" },
                                            { "logits_scaling", "logit_scale" } };
    double                   x;
    char                     key[KEY_BYTES];
    bb_status                status = BB_OK;
    for (size_t i = 0; r->c->arch->factors && i < sizeof names / sizeof *names; i++) {
        BB_TRY(real(r->root, names[i][0], 1, &x, err));
        if (!((float)x > 0)) return BB_FAIL(err, BB_BAD_FILE, "'%s' is %g; it must be above 0", names[i][0], x);
        BB_TRY(bb_gguf_put_f32(r->out, key_of(r, names[i][1], key), (float)x, err));
    }
done:
    return status;
}

/* vocab_size and rope.dimension_count: as the converter has them, for the family of llama alone. */
static bb_status read_shapes(reader *r, bb_err *err)
{
    const json_t *j = r->root;
    bb_hf_config *c = r->c;
    uint32_t      width;
    double        eps;
    char          key[KEY_BYTES];
    bb_status     status;
    BB_TRY(whole(j, "num_hidden_layers", 1, 512, 0, &c->n_layer, err));
    BB_TRY(whole(j, "hidden_size", 1, 1 << 24, 0, &c->n_embd, err));
    BB_TRY(whole(j, "intermediate_size", 1, 1 << 24, 0, &c->n_ff, err));
    BB_TRY(whole(j, "num_attention_heads", 1, 1 << 16, c->arch->n_head, &c->n_head, err));
    BB_TRY(whole(j, "num_key_value_heads", 1, c->n_head, c->arch->n_kv ? c->arch->n_kv : c->n_head, &c->n_kv, err));
    width = c->arch->head_dim ? c->arch->head_dim : c->n_embd / c->n_head;
    BB_TRY(whole(j, "head_dim", 2, 4096, width ? width : 1, &c->head_dim, err));
    if (c->n_head % c->n_kv != 0 || c->head_dim % 2 != 0)
        return BB_FAIL(err, BB_BAD_FILE, "%u heads of %u numbers with %u KV heads: whole groups and an even head size are needed", c->n_head, c->head_dim,
                       c->n_kv);
    BB_TRY(whole(j, "vocab_size", 1, 1 << 24, c->arch->n_vocab, &c->n_vocab, err));
    BB_TRY(whole(j, "max_position_embeddings", 1, INT32_MAX, c->arch->context ? c->arch->context : 2048, &c->context, err));
    BB_TRY(real(j, "rms_norm_eps", 1e-6, &eps, err));
    BB_TRY(flag(j, "tie_word_embeddings", c->arch->tied, &c->tied, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "block_count", key), c->n_layer, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "context_length", key), c->context, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "embedding_length", key), c->n_embd, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "feed_forward_length", key), c->n_ff, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.head_count", key), c->n_head, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.head_count_kv", key), c->n_kv, err));
    BB_TRY(bb_gguf_put_f32(r->out, key_of(r, "attention.layer_norm_rms_epsilon", key), (float)eps, err));
    /* the converter drops a granite's and a phi3's, which is right where the heads make up the width */
    if ((!absent(json_object_get(j, "head_dim")) || c->arch->head_dim) &&
        !((c->arch->factors || c->arch->two_factors) && c->head_dim * c->n_head == c->n_embd)) {
        BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.key_length", key), c->head_dim, err));
        BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.value_length", key), c->head_dim, err));
    }
    if (c->arch->pairs) BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "vocab_size", key), c->n_vocab, err));
done:
    return status;
}

/* What only Gemma 4 says: of blocks without a window, and what is not computed. The library's defaults. */
static bb_status read_kinds(reader *r, bb_err *err)
{
    const json_t *j = r->root, *full = NULL;
    bb_hf_config *c = r->c;
    uint32_t      n_kv[512], n_ff[512], full_kv = 0, shared, per_layer;
    bool          same_kv, wide, experts, slides;
    char          key[KEY_BYTES];
    bb_status     status = BB_OK;
    if (!c->arch->own_kinds) goto done;
    for (uint32_t i = 0; i < c->n_layer && !json_is_object(full); i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", i);
        BB_TRY(window_at(r, i, 6, &slides, err));
        if (!slides) full = json_object_get(json_object_get(j, "per_layer_config"), number);
    }
    BB_TRY(whole(absent(json_object_get(j, "global_head_dim")) && json_is_object(full) ? full : j,
                 absent(json_object_get(j, "global_head_dim")) && json_is_object(full) ? "head_dim" : "global_head_dim", 2, 4096,
                 json_is_object(full) ? c->head_dim : 512, &c->head_dim_full, err));
    BB_TRY(flag(j, "attention_k_eq_v", false, &same_kv, err));
    if (json_is_object(full)) BB_TRY(whole(full, "num_key_value_heads", 1, c->n_head, c->n_kv, &full_kv, err));
    else if (same_kv) BB_TRY(whole(j, "num_global_key_value_heads", 1, c->n_head, c->n_kv, &full_kv, err));
    BB_TRY(whole(j, "num_kv_shared_layers", 0, c->n_layer, UINT32_MAX, &shared, err));
    if (shared == UINT32_MAX) shared = 0;
    BB_TRY(whole(j, "hidden_size_per_layer_input", 0, 1 << 16, 256, &per_layer, err));
    if (json_is_null(json_object_get(j, "hidden_size_per_layer_input"))) per_layer = 0;
    BB_TRY(flag(j, "use_double_wide_mlp", false, &wide, err));
    BB_TRY(flag(j, "enable_moe_block", false, &experts, err));
    if (experts) return BB_FAIL(err, BB_UNSUPPORTED, "'enable_moe_block' is true: the model has experts; only dense models are supported");
    if (c->head_dim_full % 2) return BB_FAIL(err, BB_BAD_FILE, "heads of %u numbers in blocks without a window: an even size is needed", c->head_dim_full);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        BB_TRY(window_at(r, i, 6, &slides, err));
        n_kv[i] = slides || !full_kv ? c->n_kv : full_kv;
        n_ff[i] = wide && i >= c->n_layer - shared ? 2 * c->n_ff : c->n_ff;
    }
    if (full_kv && full_kv != c->n_kv) BB_TRY(bb_gguf_put_u32_array(r->out, key_of(r, "attention.head_count_kv", key), n_kv, c->n_layer, err));
    if (wide) BB_TRY(bb_gguf_put_u32_array(r->out, key_of(r, "feed_forward_length", key), n_ff, c->n_layer, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.shared_kv_layers", key), shared, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "embedding_length_per_layer_input", key), per_layer, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.key_length", key), c->head_dim_full, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.value_length", key), c->head_dim_full, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.key_length_swa", key), c->head_dim, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "attention.value_length_swa", key), c->head_dim, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "rope.dimension_count", key), c->head_dim_full, err));
    BB_TRY(bb_gguf_put_u32(r->out, key_of(r, "rope.dimension_count_swa", key), c->head_dim, err));
done:
    return status;
}

bb_status bb_hf_config_read(const json_t *root, bb_hf_config *c, bb_gguf_out *out, bb_err *err)
{
    reader    r = { bb_hf_text_config(root), c, out };
    bb_status status;
    memset(c, 0, sizeof *c);
    c->nested = r.root != root;
    BB_TRY(find_arch(&r, root, err));
    BB_TRY(check_rest(&r, err));
    BB_TRY(bb_gguf_put_text(out, "general.architecture", c->arch->arch, err));
    BB_TRY(bb_gguf_put_text(out, "general.type", "model", err));
    BB_TRY(read_shapes(&r, err));
    BB_TRY(check_gemma(&r, err));
    BB_TRY(read_kinds(&r, err));
    BB_TRY(read_rope(&r, err));
    BB_TRY(read_windows(&r, err));
    BB_TRY(read_factors(&r, err));
done:
    return status;
}
