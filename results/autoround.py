# SPDX-License-Identifier: GPL-3.0-or-later
# AutoRound's own GGUF export of a GGUF model, its calibration text given: for results/real-rivals.sh. Needs auto_round, transformers, torch, gguf, sentencepiece (PyPI).
# usage: python autoround.py MODEL-F16.gguf CALIB.txt SCHEME ITERS NSAMPLES SEQLEN BATCH WORK OUT.gguf
#   SCHEME  gguf:q4_0, gguf:q2_k_s, gguf:q2_k_mixed ... ITERS 0: its optimised rounding to nearest; NSAMPLES windows of SEQLEN tokens of the text are what it trains on.
# Its export takes the vocabulary from a Hugging Face tokenizer, which a GGUF does not give back exactly; so its tensors are put behind the source's own keys.
import glob
import os
import random
import shutil
import sys

import gguf
import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def as_folder(source, folder):
    """The source as a Hugging Face folder, float32."""
    if not os.path.exists(folder + "/model.safetensors"):
        where, name = os.path.split(os.path.abspath(source))
        read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
        if hasattr(read.config, "quantization_config"):
            del read.config.quantization_config
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)


def windows(text, tokenizer, n, length):
    ids = tokenizer(open(text, encoding="utf-8").read(), return_tensors="pt").input_ids[0]
    starts = list(range(0, len(ids) - length, length))
    random.Random(42).shuffle(starts)
    return [{"input_ids": ids[s : s + length].unsqueeze(0), "attention_mask": torch.ones(1, length, dtype=torch.long)} for s in sorted(starts[:n])]


def transplant(source, quantized, out):
    """The tensors of `quantized` behind the keys of `source`, in the order and under the names of the source."""
    keys, tensors = gguf.GGUFReader(source), {t.name: t for t in gguf.GGUFReader(quantized).tensors}
    w = gguf.GGUFWriter(out, keys.get_field("general.architecture").contents())
    for f in keys.fields.values():
        if f.name.startswith("GGUF.") or f.name in ("general.architecture", "general.file_type"):
            continue
        if f.types[0] == gguf.GGUFValueType.ARRAY:
            w.add_key_value(f.name, f.contents(), gguf.GGUFValueType.ARRAY, f.types[-1])
        else:
            w.add_key_value(f.name, f.contents(), f.types[0])
    for t in keys.tensors:
        q = tensors.pop(t.name)
        assert list(q.shape) == list(t.shape), (t.name, q.shape, t.shape)
        w.add_tensor(t.name, numpy.ascontiguousarray(q.data), raw_dtype=q.tensor_type)
    tensors.pop("output.weight", None)
    assert not tensors, sorted(tensors)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(source, calib, scheme, iters, nsamples, seqlen, batch, work, out):
    from auto_round import AutoRound

    iters, nsamples, seqlen, batch = int(iters), int(nsamples), int(seqlen), int(batch)
    folder, made = work + "/hf", work + "/made"
    as_folder(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = windows(calib, tokenizer, nsamples, seqlen)
    shutil.rmtree(made, ignore_errors=True)
    ar = AutoRound(folder, tokenizer, scheme=scheme.upper(), iters=iters, dataset=data, seqlen=seqlen, nsamples=len(data), batch_size=batch, device_map="cpu", enable_torch_compile=False)
    ar.quantize_and_save(made, format=scheme)
    transplant(source, glob.glob(made + "/**/*.gguf", recursive=True)[0], out)


main(*sys.argv[1:])
