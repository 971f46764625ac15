# SPDX-License-Identifier: GPL-3.0-or-later
# results/harness.csv: zero-shot tasks by the Language Model Evaluation Harness and by `bitbudget eval --tasks`, the same weights, the same items.
# usage: python harness.py FOLDER MODEL.gguf TASKS OUT.csv [TASK...]
#   FOLDER  MODEL.gguf as a Hugging Face folder (`bitbudget convert MODEL.gguf FOLDER`); without tokenizer.json it gets one, made from the vocabulary of the GGUF
#   TASKS   a folder with llm-foundry/*.jsonl and hellaswag/hellaswag_val_full.txt.bz2; OUT.csv: rows that are there are not made again; TASK: of those below (all)
# ITEMS (100: the first of each), BATCH (8), BITBUDGET (./bitbudget). Needs lm_eval (tried: 0.4.13), torch, transformers, accelerate, datasets and, for the
# tokenizer, gguf (PyPI); no network. By the processor and in float32, about 10 minutes for 100 items of each task and SmolLM2-135M.
#
# The harness downloads its data sets; here each item of our files is put back into the columns that the data set has, and everything else is the harness's: prompts,
# choices, tokenization, truncation, likelihoods, acc and acc_norm. Three of our files have other prompts than the harness makes (boolq, copa, hellaswag): these are
# asked in both ways, in the file's under the task's name and in the harness's own under NAME-own, where ours reads a file that is made of the same prompts.
# The columns are explained in docs/tables.md.
import bz2
import csv
import json
import os
import re
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")

import datasets
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HEADER = "task,items,acc_harness,acc_ours,acc_norm_harness,acc_norm_ours,same_answers,max_nats".split(",")
TASKS = "arc_easy arc_challenge hellaswag hellaswag-own piqa winogrande openbook_qa boolq boolq-own copa copa-own lambada_openai".split()
NORMALISED = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]


# ---- items of our files in the columns of the harness's data sets ----


def lettered(choices, gold):
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    return {"choices": {"text": choices, "label": letters}, "answerKey": letters[gold]}


def arc(item):
    return {"question": item["query"].removeprefix("Question: ").strip(), **lettered(item["choices"], item["gold"])}


def openbook_qa(item):
    return {"question_stem": item["query"], **lettered(item["choices"], item["gold"])}


def piqa(item):
    return {"goal": item["query"].removeprefix("Question: ").strip(), "sol1": item["choices"][0], "sol2": item["choices"][1], "label": item["gold"]}


def winogrande(item):
    one, two = item["context_options"]
    common = os.path.commonprefix([one, two])
    common = common[: common.rfind(" ") + 1]
    return {
        "sentence": common + "_ " + item["continuation"],
        "option1": one[len(common) :],
        "option2": two[len(common) :],
        "answer": str(item["gold"] + 1),
    }


def lambada(item):
    return {"text": item["context"].strip() + " " + item["continuation"].strip()}


def boolq(item):
    passage, question = item["query"].removeprefix("Passage: ").rsplit("\nQuestion: ", 1)
    return {"passage": passage, "question": question.removesuffix("?"), "label": item["gold"]}


def copa(item):
    premise, connector = item["query"].rsplit(", ", 1)
    upper = [c[0].upper() + c[1:] for c in item["choices"]]
    return {
        "premise": premise + ".",
        "question": {"because": "cause", "therefore": "effect"}[connector],
        "choice1": upper[0],
        "choice2": upper[1],
        "label": item["gold"],
    }


def hellaswag(item):
    # The sentence that the endings go on with, which the file begins in lower case, is a column of its own there.
    label, context = item["query"].split(": ", 1)
    parts = re.match(r"(.*[.!?\"')])\s+([a-z][^.!?]*)$", context, re.DOTALL)
    first, second = parts.groups() if parts else (context, "")
    return {"activity_label": label, "ctx_a": first, "ctx_b": second, "endings": item["choices"], "label": str(item["gold"])}


def as_is(item):
    return item


# Our name: the harness's, the item's columns, what its configuration has instead of its own where the file's prompts are asked.
FILE = {"doc_to_choice": "{{choices}}", "doc_to_target": "gold", "process_docs": None, "metric_list": NORMALISED}
CONFIG = {
    "arc_easy": ("arc_easy", arc, {}),
    "arc_challenge": ("arc_challenge", arc, {}),
    "hellaswag": ("hellaswag", as_is, {"doc_to_text": "{{query}}", **FILE}),
    "hellaswag-own": ("hellaswag", hellaswag, {}),
    "piqa": ("piqa", piqa, {}),
    "winogrande": ("winogrande", winogrande, {}),
    "openbook_qa": ("openbookqa", openbook_qa, {}),
    "boolq": ("boolq", as_is, {"doc_to_text": "{{query}}\nAnswer:", **FILE}),
    "boolq-own": ("boolq", boolq, {}),
    "copa": ("copa", as_is, {"doc_to_text": "{{query}}", **FILE}),
    "copa-own": ("copa", copa, {}),
    "lambada_openai": ("lambada_openai", lambada, {}),
}


def items_of(folder, name, n):
    name = name.removesuffix("-own")
    if name != "hellaswag":
        with open(f"{folder}/llm-foundry/{name}.jsonl", encoding="utf-8") as f:
            return [json.loads(line) for line, _ in zip(f, range(n))]
    with bz2.open(f"{folder}/hellaswag/hellaswag_val_full.txt.bz2", "rt", encoding="utf-8") as f:
        lines = [line.strip() for line, _ in zip(f, range(6 * n))]
    return [{"query": lines[i], "choices": lines[i + 2 : i + 6], "gold": int(lines[i + 1])} for i in range(0, len(lines), 6)]


# ---- the harness ----


def make_tokenizer(folder, gguf_path):
    """tokenizer.json of a byte-level BPE whose digits stand alone (tokenizer.ggml.pre smollm)."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    keys = gguf.GGUFReader(gguf_path).fields
    get = lambda name: keys["tokenizer.ggml." + name].contents()
    if get("model") != "gpt2" or get("pre") != "smollm" or get("add_bos_token"):
        sys.exit(f"{gguf_path}: no vocabulary of the kind that a tokenizer is made of here; copy tokenizer.json to {folder}")
    tokens = get("tokens")
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in get("merges")]))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, get("token_type")) if kind == 3])
    made.save(folder + "/tokenizer.json")
    with open(folder + "/tokenizer_config.json", "w", encoding="utf-8") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[get("eos_token_id")], "model_max_length": 1 << 20}, f)


def by_harness(lm, manager, name, items):
    """acc, acc_norm (None where the harness has none) and of each item its options' log-likelihoods, whether the answer is right, and the requests."""
    theirs, columns, instead = CONFIG[name]
    rows = datasets.Dataset.from_list([columns(i) for i in items])
    entry = manager.task_index[theirs]
    data = {"custom_dataset": lambda **_: {"validation": rows}, "validation_split": "validation", "test_split": None, "training_split": None}
    task = manager._factory.build(entry, overrides={**data, **instead, "task": theirs}, registry=manager.task_index)
    out = simple_evaluate(model=lm, tasks=[task], log_samples=True, bootstrap_iters=0, task_manager=manager)
    (scores,), (samples,) = out["results"].values(), out["samples"].values()
    samples.sort(key=lambda s: s["doc_id"])
    return scores["acc,none"], scores.get("acc_norm,none"), samples


# ---- ours ----


def write_items(path, items, samples, own):
    """The items for our program: as they were, or of the prompts that the harness made."""
    with open(path, "w", encoding="utf-8") as f:
        for item, s in zip(items, samples):
            if own:
                context, options = s["arguments"][0][0].removesuffix("\nAnswer:"), [a[1] for a in s["arguments"]]
                space = options[0][: len(options[0]) - len(options[0].lstrip())]
                item = {"query": context, "choices": [o.strip() for o in options], "gold": item["gold"], "delimiter": space}
            if path.endswith(".txt"):
                f.write("\n".join([item["query"], str(item["gold"]), *item["choices"]]) + "\n")
            else:
                f.write(json.dumps(item) + "\n")


def by_ours(program, model, name, items, samples):
    """acc, acc_norm (None where it is not customary) and of each item the rows of --answers."""
    with tempfile.TemporaryDirectory() as work:
        path, answers = f"{work}/{name}." + ("txt" if name == "hellaswag" else "jsonl"), work + "/answers.csv"
        write_items(path, items, samples, name.endswith("-own"))
        run = [program, "eval", model, "--tasks", path, "--json", "-q", "--answers", answers]
        (result,) = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)["tasks"]
        per_item = [[] for _ in items]
        with open(answers, encoding="utf-8") as f:
            for o in csv.DictReader(f):
                per_item[int(o["item"])].append(o)
    return result["acc"], result["acc_norm"], per_item


# ---- both ----


def likeliest(values):
    return values.index(max(values))


def compare(samples, answers):
    """Share of items answered alike (a cloze: found, or not), and the largest difference of an option's log-likelihood."""
    same, most = 0, 0.0
    for s, rows in zip(samples, answers):
        theirs, ours = [float(r[0]) for r in s["filtered_resps"]], [float(o["log_likelihood"]) for o in rows]
        most = max([most] + [abs(a - b) for a, b in zip(theirs, ours, strict=True)])
        same += likeliest(theirs) == likeliest(ours) if len(ours) > 1 else bool(s["acc"]) == (rows[0]["greedy"] == "1")
    return same / len(samples), most


def cell(x):
    return "" if x is None else f"{x:.6g}" if isinstance(x, float) else str(x)


def main():
    folder, model, tasks, table, *names = sys.argv[1:]
    n = int(os.environ.get("ITEMS", 100))
    if not os.path.exists(folder + "/tokenizer.json"):
        make_tokenizer(folder, model)
    if not os.path.exists(table):
        with open(table, "w", encoding="utf-8") as f:
            f.write(",".join(HEADER) + "\n")
    with open(table, encoding="utf-8") as f:
        done = {(r["task"], int(r["items"])) for r in csv.DictReader(f)}
    lm = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=int(os.environ.get("BATCH", 8)))
    manager = TaskManager()
    for name in names or TASKS:
        items = items_of(tasks, name, n)
        if (name, len(items)) in done:
            continue
        acc, norm, samples = by_harness(lm, manager, name, items)
        acc_ours, norm_ours, answers = by_ours(os.environ.get("BITBUDGET", "./bitbudget"), model, name, items, samples)
        row = [name, len(items), acc, acc_ours, norm, norm_ours if norm is not None else None, *compare(samples, answers)]
        with open(table, "a", encoding="utf-8") as f:
            f.write(",".join(map(cell, row)) + "\n")


if __name__ == "__main__":
    main()
