// SPDX-License-Identifier: GPL-3.0-or-later
// llama_logits.mjs: loads DIR/NAME.gguf with the llama.cpp that node-llama-cpp ships, evaluates DIR/NAME.tokens in one sequence and
// writes the logits at each position to DIR/NAME.theirs (f32, n x V); DIR/NAME.theirs_tokens has llama.cpp's ids of DIR/NAME.txt.
// usage: node llama_logits.mjs PACKAGES DIR NAME, where PACKAGES is the folder that has node_modules
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, dir, name] = process.argv.slice(2);
const at = suffix => path.join(dir, name + suffix);
const found = createRequire(path.join(path.resolve(packages), "x.js")).resolve("node-llama-cpp");
const { getLlama } = await import(pathToFileURL(found).href);

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: path.resolve(at(".gguf")) });

const bytes = fs.readFileSync(at(".tokens"));
const ids = Array.from(new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
const theirs = model.tokenize(fs.readFileSync(at(".txt"), "utf8"));
fs.writeFileSync(at(".theirs_tokens"), Buffer.from(Int32Array.from(theirs).buffer));

const context = await model.createContext({
    contextSize: 256, batchSize: 256, flashAttention: false, threads: 2,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
});
const sequence = context.getSequence();
const output = await sequence.controlledEvaluate(ids.map(id => [id, { generateNext: { logits: true } }]));
const vocabulary = output[0].next.logits.size;
const logits = new Float32Array(ids.length * vocabulary);
output.forEach((item, i) => {
    for (const [token, logit] of item.next.logits) logits[i * vocabulary + token] = logit;
});
fs.writeFileSync(at(".theirs"), Buffer.from(logits.buffer));
await context.dispose();
await model.dispose();
await llama.dispose();
