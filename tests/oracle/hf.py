# SPDX-License-Identifier: GPL-3.0-or-later
"""Random small models made by Hugging Face's own library, read by bitbudget: `make oracle` (needs PyPI's torch, transformers and tokenizers; compressed-tensors for folders that are written).

usage: hf.py BITBUDGET FOLDER [CONVERTER [PERPLEXITY]]
       hf.py --vectors FOLDER

For each architecture: perplexity by bitbudget on the folder against the library's in float32, over 256 positions, to 1e-3 of its logarithm. CONVERTER:
llama.cpp's convert_hf_to_gguf.py; then every tensor and every key of `bitbudget convert` is compared with those of its file (needs PyPI's gguf).
PERPLEXITY: llama.cpp's llama-perplexity; then the file that a small searched run on the folder exports (pruned where its loader takes that, trained) is loaded and scored
by it and by bitbudget, up to six windows of 256, to 5e-3 of the logarithm (it quantizes what matrices read to 8 bits); so are its own F16 and F32 files, without the search.
And of its weights in F32 the log-probability of each of 254 tokens by all three programs, to 1e-3 each; of gemma3 and gemma4 to 1e-2 from llama.cpp, whose GELU is a table of
half floats (docs/models.md).
ORACLE_CASES="name name" in the environment: only these.
--vectors: smaller models of the same kinds into FOLDER/NAME (config.json, model.safetensors), the tokenizer of all into FOLDER, and for each FOLDER/NAME/logp.csv:
201 tokens, and the library's log-probability (float32) of each after those before it. tests/test_vectors.c compares with them.
"""
import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CTX, WINDOWS, VOCAB, LARGE = 64, 8, 320, 640  # LARGE: with 256 tokens for bytes
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + END
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + END
SHAPE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=1)
SMALL = dict(SHAPE, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
MINISTRAL = dict(YARN, rope_theta=1e6, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)


def long_rope(context, n, partial=1.0):
    """Phi-3's: other factors for contexts of more tokens than before the extension."""
    return dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=partial, original_max_position_embeddings=context,
                short_factor=[1.0 + 0.05 * i for i in range(n)], long_factor=[1.5 + 0.4 * i for i in range(n)])


VISION3 = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
VISION4 = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
GEMMA = {"full_attention": dict(rope_type="linear", factor=4.0, rope_theta=5000.0), "sliding_attention": dict(rope_type="default", rope_theta=300.0)}
GEMMA4 = {"full_attention": dict(rope_type="proportional", partial_rotary_factor=0.5, rope_theta=5000.0), "sliding_attention": dict(rope_type="default", rope_theta=300.0)}
KINDS = dict(layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2, sliding_window=12, rope_parameters=GEMMA4, initializer_range=0.1)
E2B = dict(num_kv_shared_layers=3, vocab_size_per_layer_input=VOCAB)  # and hidden_size_per_layer_input
CHARACTERS = "characters"  # Gemma 4's: no pre-tokenizer but at line ends, spaces marked, bytes where there is no token
PRE = {CHARACTERS: "gemma4", None: "gpt-2", QWEN: "qwen2", LLAMA3: "llama-bpe"}
# The converter knows pre-tokenizers by what the published vocabularies make of a text, and this vocabulary is new: it is told.
CONVERT = """
import os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import conversion.base
name = sys.argv.pop()
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: name
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

def cases(shape):
    """Rows: name, configuration, model, words of the pre-tokenizer, type of the weights, bytes of a shard."""
    half = shape["hidden_size"] // shape["num_attention_heads"] // 2
    four = dict(shape, num_hidden_layers=max(4, shape["num_hidden_layers"]))  # the fourth block of a smollm3 is the one that differs
    return [
        ("llama", hf.LlamaConfig(**shape, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE), hf.LlamaForCausalLM, LLAMA3, torch.bfloat16, "100KB"),
        ("mistral", hf.MistralConfig(**shape, sliding_window=None), hf.MistralForCausalLM, None, torch.float16, "10GB"),
        ("qwen2", hf.Qwen2Config(**shape, tie_word_embeddings=True), hf.Qwen2ForCausalLM, QWEN, torch.bfloat16, "10GB"),
        ("qwen3", hf.Qwen3Config(**shape, head_dim=shape["hidden_size"] // 2, tie_word_embeddings=True), hf.Qwen3ForCausalLM, QWEN, torch.float32, "50KB"),
        ("smollm3", hf.SmolLM3Config(**four, tie_word_embeddings=True), hf.SmolLM3ForCausalLM, LLAMA3, torch.float16, "10GB"),
        ("granite", hf.GraniteConfig(**shape, tie_word_embeddings=True, attention_multiplier=0.15625, embedding_multiplier=12.0, residual_multiplier=0.22,
                                     logits_scaling=8.0, initializer_range=0.1), hf.GraniteForCausalLM, LLAMA3, torch.bfloat16, "10GB"),
        ("granite-bias", hf.GraniteConfig(**shape, tie_word_embeddings=False, attention_bias=True, attention_multiplier=0.5, embedding_multiplier=3.0,
                                          residual_multiplier=0.7, logits_scaling=0.25, initializer_range=0.1), hf.GraniteForCausalLM, LLAMA3, torch.float16, "10GB"),
        ("phi3", hf.Phi3Config(**shape, initializer_range=0.1, sliding_window=200), hf.Phi3ForCausalLM, QWEN, torch.bfloat16, "10GB"),
        ("phi3-long", hf.Phi3Config(**shape, initializer_range=0.1, tie_word_embeddings=True, rope_parameters=long_rope(32, half)), hf.Phi3ForCausalLM, LLAMA3,
         torch.float16, "100KB"),
        ("phi3-short-partial", hf.Phi3Config(**shape, initializer_range=0.1, rope_parameters=long_rope(240, half * 3 // 4, 0.75)), hf.Phi3ForCausalLM, LLAMA3, torch.float32, "10GB"),
        ("ministral3", hf.Ministral3Config(**shape, head_dim=shape["hidden_size"] // 2, initializer_range=0.1, rope_parameters=MINISTRAL), hf.Ministral3ForCausalLM, LLAMA3, torch.bfloat16,
         "10GB"),
        ("ministral3-half", hf.Ministral3Config(**shape, head_dim=2 * half, initializer_range=0.1, tie_word_embeddings=True, rope_parameters=dict(
            MINISTRAL, beta_fast=4.0, beta_slow=0.5, mscale_all_dim=0.5)), hf.Ministral3ForCausalLM, LLAMA3, torch.float16, "10GB"),
        ("olmo2", hf.Olmo2Config(**shape, initializer_range=0.1), hf.Olmo2ForCausalLM, LLAMA3, torch.bfloat16, "10GB"),
        ("gemma3", hf.Gemma3TextConfig(**dict(shape, num_hidden_layers=7), head_dim=2 * half, query_pre_attn_scalar=2 * half, sliding_window=12, initializer_range=0.1,
                                       rope_parameters=GEMMA), hf.Gemma3ForCausalLM, QWEN, torch.bfloat16, "100KB"),
        ("gemma3-types", hf.Gemma3TextConfig(**dict(shape, num_hidden_layers=3), head_dim=shape["hidden_size"] // 2, query_pre_attn_scalar=shape["hidden_size"] // 2,
                                             sliding_window=9, initializer_range=0.1, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
         hf.Gemma3ForCausalLM, QWEN, torch.float32, "10GB"),
        ("gemma3-capped", hf.Gemma3TextConfig(**dict(shape, num_hidden_layers=2), head_dim=2 * half, query_pre_attn_scalar=2 * half, sliding_window=12, initializer_range=0.1,
                                              final_logit_softcapping=1.5), hf.Gemma3ForCausalLM, QWEN, torch.bfloat16, "10GB"),
        ("gemma3-parts", hf.Gemma3Config(text_config=dict(shape, num_hidden_layers=3, head_dim=2 * half, query_pre_attn_scalar=2 * half, sliding_window=12, initializer_range=0.1),
                                         vision_config=VISION3, mm_tokens_per_image=4), hf.Gemma3ForConditionalGeneration, QWEN, torch.bfloat16, "10GB"),
        ("gemma4", hf.Gemma4TextConfig(**dict(shape, **KINDS, num_hidden_layers=6, num_kv_shared_layers=0, hidden_size_per_layer_input=0), head_dim=2 * half,
                                       global_head_dim=4 * half, num_global_key_value_heads=1, attention_k_eq_v=True, final_logit_softcapping=2.0), hf.Gemma4ForCausalLM,
         CHARACTERS, torch.bfloat16, "100KB"),
        ("gemma4-plain", hf.Gemma4TextConfig(**dict(shape, **KINDS, num_hidden_layers=6, num_kv_shared_layers=0, hidden_size_per_layer_input=0), head_dim=4 * half,
                                             global_head_dim=2 * half), hf.Gemma4ForCausalLM, CHARACTERS, torch.float32, "10GB"),
        ("gemma4-e2b", hf.Gemma4TextConfig(**dict(shape, **KINDS, **E2B, hidden_size_per_layer_input=2 * half, num_hidden_layers=6), head_dim=2 * half, global_head_dim=4 * half, use_double_wide_mlp=True,
                                           final_logit_softcapping=2.0), hf.Gemma4ForCausalLM, CHARACTERS, torch.bfloat16, "100KB"),
        ("gemma4-e4b", hf.Gemma4TextConfig(**dict(shape, **KINDS, **E2B, hidden_size_per_layer_input=4 * half, num_hidden_layers=6), head_dim=4 * half, global_head_dim=2 * half), hf.Gemma4ForCausalLM,
         CHARACTERS, torch.float32, "10GB"),
        ("gemma4-parts", hf.Gemma4Config(text_config=dict(shape, **KINDS, num_hidden_layers=6, num_kv_shared_layers=0, hidden_size_per_layer_input=0, head_dim=2 * half,
                                                          global_head_dim=4 * half), vision_config=VISION4, audio_config=None), hf.Gemma4ForConditionalGeneration, CHARACTERS,
         torch.float16, "10GB"),
        ("llama-yarn", hf.LlamaConfig(**shape, initializer_range=0.1, rope_parameters=YARN), hf.LlamaForCausalLM, LLAMA3, torch.float16, "10GB"),
        ("qwen2-yarn", hf.Qwen2Config(**shape, initializer_range=0.1, tie_word_embeddings=True, rope_parameters=YARN), hf.Qwen2ForCausalLM, QWEN, torch.bfloat16, "10GB"),
    ]


NO_VECTORS = ("gemma3-parts", "gemma4-parts")  # whose other parts are too large to be kept
PACKED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma3", "gemma3-parts", "gemma4", "gemma4-plain", "gemma4-e2b", "gemma4-e4b", "gemma4-parts")  # that are also written as folders


def characters(text, size):
    """BPE of characters whose 256 byte tokens stand behind the merged ones."""
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.pre_tokenizer = pre_tokenizers.Split(Regex("\n+"), "isolated")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size - 260, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], show_progress=False))
    made = json.loads(t.to_str())
    vocab = made["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    t = Tokenizer.from_str(json.dumps(made))
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return hf.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def tokenizer(words, text, unused=8):
    if words == CHARACTERS:
        return characters(text, LARGE)
    t = Tokenizer(models.BPE(ignore_merges=words == LLAMA3))
    if words:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=VOCAB - unused, special_tokens=["<|begin|>", "<|end|>", "<|endoftext|>"],
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|begin|>", eos_token="<|end|>")


def lively(model, query_gain=1.0):
    """Norms and biases begin as ones and zeros, which would hide what is done with them. query_gain: of the norms of queries."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p += 0.3 * torch.randn_like(p)
            if name.endswith("q_norm.weight"):
                p *= query_gain
        for name, p in model.named_buffers():
            if name.endswith("layer_scalar"):
                p *= 0.5 + torch.rand_like(p)
    return model


def as_loaded(make, path):
    """In float32, with RoPE's frequencies in float32: those of a model that was made narrow stay so."""
    return make.from_pretrained(path, dtype=torch.float32).eval()


def nll_of(model, ids):
    """Mean over the second half of each window: position i predicts i + 1."""
    sum_, n = 0.0, 0
    with torch.no_grad():
        for w in ids.reshape(WINDOWS, CTX):
            logp = torch.log_softmax(model(torch.tensor(w[None], dtype=torch.long)).logits[0].double(), -1)
            for i in range(CTX // 2, CTX - 1):
                sum_ -= logp[i, int(w[i + 1])].item()
                n += 1
    return sum_ / n


def compare(a, b, case):
    from gguf import GGUFReader

    a, b = GGUFReader(a), GGUFReader(b)
    fields = [{k: v.contents() for k, v in x.fields.items() if not k.startswith("GGUF.")} for x in (a, b)]
    # that no BOS is added is always said by this program; names that are made from the folder's, and what this program adds
    loose = ("general.name", "general.basename", "general.size_label", "bitbudget.converted_from", "general.sampling",
             "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token")
    wrong = [k for k in sorted(set(fields[0]) | set(fields[1])) if not k.startswith(loose) and fields[0].get(k) != fields[1].get(k)]
    tensors = [{t.name: (t.tensor_type, list(t.shape), t.data.tobytes()) for t in x.tensors} for x in (a, b)]
    differ = [k for k in sorted(set(tensors[0]) | set(tensors[1])) if tensors[0].get(k) != tensors[1].get(k)]
    for k in wrong:
        print(f"{case}: key {k}: {str(fields[0].get(k))[:60]} | converter {str(fields[1].get(k))[:60]}")
    for k in differ:
        print(f"{case}: tensor {k} differs")
    return not wrong and not differ


def check_packed(program, path, ids, file):
    """A Q4_0 of the folder, whose down matrices are Q8_0, as a folder of compressed-tensors: the library on it and bitbudget on the file."""
    gguf, packed, recipe = path + ".q.gguf", path + ".packed", path + ".recipe"
    with open(recipe, "w") as f:
        if os.path.basename(path) == "gemma4-e2b":  # whose rows of 16 take no block
            f.write("[0-9]\\.proj=F16\n")
        f.write("ffn_down=Q8_0\nblk=Q4_0\ntoken_embd=F16\n")
    quiet = dict(check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program, "quantize", path, "--recipe", recipe, "--method", "rtn", "--out", gguf, "--force", "-q"], **quiet)
    subprocess.run([program, "convert", gguf, packed, "--from", path, "--force", "-q"], **quiet)
    got = json.loads(subprocess.run([program, "eval", gguf, "--text", file, "--ctx", str(CTX), "--json", "-q"], check=True, capture_output=True, text=True).stdout)
    model = hf.AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32)
    return math.log(got["ppl"] if "ppl" in got else got["perplexity"]), nll_of(model, ids)


def theirs_on(perplexity, file, text):
    """Windows that llama-perplexity has told of, and the logarithm of their perplexity; or 0 and what it says instead. (It can lose its last lines.)"""
    made = subprocess.run([perplexity, "-m", file, "-f", text, "-c", "256", "-b", "256", "--chunks", "6", "-t", "1"], capture_output=True, text=True)
    told = re.findall(r"\[(\d+)\]([0-9.]+),", made.stdout + made.stderr)
    if made.returncode != 0 or not told:
        return 0, (made.stderr.strip().splitlines() or ["no word"])[-1][:200]
    return int(told[-1][0]), math.log(float(told[-1][1]))


def ours_on(program, file, text, chunks):
    got = json.loads(subprocess.run([program, "eval", file, "--text", text, "--ctx", "256", "--chunks", str(max(chunks, 1)), "--json", "-q"], check=True, capture_output=True,
                                    text=True).stdout)
    return math.log(got["ppl"] if "ppl" in got else got["perplexity"])


def check_run(program, perplexity, path, text):
    """A small search on the folder: both programs on the file that it exports, and on the model itself."""
    out, plain = path + ".run", path + ".plain.gguf"
    quiet = dict(check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program, "run", path, "--formats", "Q4_0,Q8_0", "--embd-formats", "Q8_0", "--target-bpw", "8", "--ctx", "32", "--calib-windows", "4", "--measure-windows", "1",
                    "--refine-windows", "2", "--confirm-windows", "4", "--search-tokens", "0.001", "--tune-windows", "4", "--tune-tokens", "0.0003", "--prune", "all", "--out", out,
                    "-q"], **quiet)
    subprocess.run([program, "convert", path, plain, "--force", "-q"], **quiet)
    rows = []
    for name, file in (("source", plain), ("run", os.path.join(out, "model.gguf"))):
        chunks, theirs = theirs_on(perplexity, file, text)
        rows.append((f"{name}, {chunks} windows", ours_on(program, file, text, chunks), theirs))
    return rows, all(isinstance(theirs, float) and abs(ours - theirs) < 5e-3 for _, ours, theirs in rows)


def theirs_by_position(perplexity, file, text):
    """Token ids (windows of 256), and llama.cpp's log-probability of each token of their second halves but the first, in float32 throughout; from its file of logits:
    a header, the ids, and for each position from the half on a scale, a least value and a 16-bit number a token. NaN where that is 0: the least value stands for all below it."""
    base = file + ".logits"
    subprocess.run([perplexity, "-m", file, "-f", text, "-c", "256", "-b", "256", "--chunks", "2", "-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off",
                    "--kl-divergence-base", base], check=True, capture_output=True)
    raw = open(base, "rb").read()
    assert raw[:8] == b"_logits_"
    ctx, size, chunks = np.frombuffer(raw, np.int32, 3, 8)
    ids = np.frombuffer(raw, np.int32, ctx * chunks, 20).reshape(chunks, ctx)
    rows = np.frombuffer(raw, np.uint16, offset=20 + 4 * ctx * chunks).reshape(chunks, ctx // 2 - 1, -1)
    steps = np.ascontiguousarray(rows[:, :, :4]).view(np.float32)
    step = np.array([[rows[w, i, 4 + ids[w, ctx // 2 + 1 + i]] for i in range(ctx // 2 - 1)] for w in range(chunks)]).astype(float)
    return ids, np.where(step > 0, steps[:, :, 1] + steps[:, :, 0] * step, np.nan)


def check_positions(program, perplexity, path, model, text, begins, window):
    """Largest differences of log-probabilities at 254 positions: bitbudget and llama.cpp, bitbudget and the library. begins: a window begins with the text's first token.
    window: the library's attention sees no more, and no file can say so."""
    plain, scores, file = path + ".f32.gguf", path + ".scores.csv", path + ".ids.u32"
    quiet = dict(check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program, "quantize", path, "--format", "F32", "--embd-format", "F32", "--method", "rtn", "--out", plain, "--force", "-q"], **quiet)
    ids, theirs = theirs_by_position(perplexity, plain, text)
    ids.astype(np.uint32).tofile(file)
    subprocess.run([program, "eval", plain, "--text", file, "--ctx", "256", "--scores", scores, "--force", "-q"], **quiet)
    ours = -np.loadtxt(scores, delimiter=",", skiprows=1)[:, 3].reshape(theirs.shape)
    ids = ids.copy()
    if begins:
        ids[:, 0] = ids[0, 0]
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor(ids, dtype=torch.long)).logits.double(), -1).numpy()
    half = ids.shape[1] // 2
    lib = np.array([[logp[w, half + i, ids[w, half + 1 + i]] for i in range(theirs.shape[1])] for w in range(len(ids))])
    return np.nanmax(np.abs(ours - theirs)), np.abs(ours - lib)[:, : window - half].max()


def vectors(folder, text):
    tok = tokenizer(LLAMA3, text)
    tok.save_pretrained(folder)
    ids = tok(text[3000:])["input_ids"][:201]
    only = os.environ.get("ORACLE_CASES", "").split()
    for case, config, make, _, _, _ in cases(SMALL):
        if (only and case not in only) or case in NO_VECTORS:
            continue
        config.initializer_range = 0.15
        torch.manual_seed(len(case))
        model = lively(make(config)).to(torch.float16)
        path = os.path.join(folder, case)
        model.save_pretrained(path)
        for extra in ("generation_config.json", "model.safetensors.index.json"):
            if os.path.exists(os.path.join(path, extra)):
                os.remove(os.path.join(path, extra))
        with torch.no_grad():
            logp = torch.log_softmax(as_loaded(make, path)(torch.tensor([ids])).logits[0].double(), -1)
        with open(os.path.join(path, "logp.csv"), "w") as out:
            out.write("id,logp\n" + f"{ids[0]},\n")
            out.writelines(f"{ids[t + 1]},{logp[t, ids[t + 1]].item():.6f}\n" for t in range(200))
        print(f"{case}: {sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))} bytes, mean {-logp[range(200), ids[1:]].mean().item():.4f}")


def main():
    program, folder, converter, perplexity = (sys.argv[1:] + [None, None])[:4]
    text = open(os.path.join(os.path.dirname(__file__), "..", "..", "LICENSE"), encoding="utf-8").read()
    if program == "--vectors":
        vectors(folder, text)
        return 0
    ok = True
    packs = importlib.util.find_spec("compressed_tensors") is not None
    if not packs:
        print("compressed-tensors is not installed: packed folders are NOT compared")
    only = os.environ.get("ORACLE_CASES", "").split()
    for case, config, make, words, dtype, shard in cases(SHAPE):
        if only and case not in only:
            continue
        path = os.path.join(folder, case.replace("phi3", "fi3"))  # llama.cpp asks a vocabulary whose model is called phi3 for "<s>"
        torch.manual_seed(len(case))
        # the converter cuts a gemma's embedding to as many rows as there are tokens and, counted again, added tokens: three; of a gemma4's there are as many as tokens
        tok = tokenizer(words, text, 3 if case.startswith("gemma3") else 8)
        if words == CHARACTERS:
            config.get_text_config().vocab_size = config.get_text_config().vocab_size_per_layer_input = len(tok)
        # a gemma4 does not divide q k by the root of the head's size: with gains of one a head sees one key, and what llama.cpp rounds to 8 bits shows in the second digit
        model = lively(make(config), 0.25 if case.startswith("gemma4") else 1.0).to(dtype)
        model.save_pretrained(path, max_shard_size=shard)
        tok.save_pretrained(path)
        if case.startswith("phi3"):  # the converter takes tokenizer.json from a folder that names this class, and no other
            name = os.path.join(path, "tokenizer_config.json")
            named = dict(json.load(open(name)), tokenizer_class="GPT2Tokenizer")
            json.dump(named, open(name, "w"))
        ids = np.array(tok(text)["input_ids"][: CTX * WINDOWS], dtype=np.uint32)
        if words == CHARACTERS:  # whose files say that a text begins with a token for that: so does each window
            ids[::CTX] = ids[0]
        ours_ids = subprocess.run([program, "tokenize", path, "--text", os.path.join(os.path.dirname(__file__), "..", "..", "LICENSE")], check=True,
                                  capture_output=True, text=True).stdout.split()
        same_ids = [int(x) for x in ours_ids[: len(ids)]] == tok(text)["input_ids"][: len(ids)]
        file = os.path.join(folder, case + ".u32")
        ids.tofile(file)
        got = json.loads(subprocess.run([program, "eval", path, "--text", file, "--ctx", str(CTX), "--json", "-q"], check=True, capture_output=True, text=True).stdout)
        mine, theirs = math.log(got["ppl"] if "ppl" in got else got["perplexity"]), nll_of(as_loaded(make, path), ids)
        good = abs(mine - theirs) < 1e-3 and same_ids
        print(f"{case}: mean negative log-likelihood {mine:.6f}, of the library {theirs:.6f}; token ids {'agree' if same_ids else 'DIFFER'}")
        if packs and case in PACKED:
            mine, theirs = check_packed(program, path, ids, file)
            good &= abs(mine - theirs) < 1e-3
            print(f"{case}, packed: mean negative log-likelihood {mine:.6f}, of the library {theirs:.6f}")
        if converter and case != "gemma3-types":  # which the converter writes without its list of windows
            ours, ref = os.path.join(folder, case + ".gguf"), os.path.join(folder, case + ".ref.gguf")
            outtype = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
            subprocess.run([program, "convert", path, ours, "--force"], check=True, stdout=subprocess.DEVNULL)
            made = subprocess.run([sys.executable, "-c", CONVERT, converter, path, "--outtype", outtype, "--outfile", ref, PRE[words]], capture_output=True, text=True)
            if made.returncode != 0:
                print(f"{case}: the converter refuses: {made.stderr.strip().splitlines()[-1][:160]}")
            else:
                good &= compare(ours, ref, case)
        if perplexity:
            rows, same = check_run(program, perplexity, path, os.path.join(os.path.dirname(__file__), "..", "..", "LICENSE"))
            for name, mine, theirs in rows:
                print(f"{case}, {name}: mean negative log-likelihood {mine:.6f}, by llama-perplexity {theirs if isinstance(theirs, str) else round(theirs, 6)}")
            good &= same
            far = check_positions(program, perplexity, path, as_loaded(make, path), os.path.join(os.path.dirname(__file__), "..", "..", "LICENSE"), words == CHARACTERS,
                                  config.sliding_window if case == "phi3" else 256)
            print(f"{case}: log-probabilities at 254 positions differ from llama.cpp's by at most {far[0]:.1e}, from the library's by at most {far[1]:.1e}")
            good &= far[0] < (1e-2 if case.startswith("gemma") else 1e-3) and far[1] < 1e-3
        ok &= good
        sys.stdout.flush()
    print("all agree" if ok else "NOT ALL AGREE")
    return 0 if ok else 1


sys.exit(main())
