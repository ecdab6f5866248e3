// The model against PyTorch: logits, greedy text, and what the cache promises.
import assert from "node:assert/strict";
import test from "node:test";

import { GPT2 } from "../../lib/widgets/gpt2.js";
import { parseSafetensors } from "../../lib/widgets/safetensors.js";
import { Tokenizer } from "../../lib/widgets/tokenizer.js";
import { bytes, golden, json } from "./golden.mjs";

const CLOSE = 1e-4; // largest difference of a logit from PyTorch's
const TIE = 2e-5; // two logits that float32 may order either way

const configOf = (name) => json(`${name}/config.json`);
const tensorsOf = (name) => parseSafetensors(bytes(`${name}/model.safetensors`));
const load = (name) => new GPT2(configOf(name), tensorsOf(name));
const tokenizer = new Tokenizer(json("tiny/tokenizer.json"));

const largest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const argmax = (values) => values.indexOf(largest(values));

/** Follow a golden continuation; compare logits and greedy choice at each step. */
function follow(model, { ids, tokens }, expected) {
  const cache = model.start();
  const width = model.config.vocab_size;
  const report = { difference: 0, flips: [] };
  let fresh = ids;
  tokens.forEach((token, step) => {
    const logits = model.forward(fresh, cache);
    const wanted = expected.subarray(step * width, (step + 1) * width);
    const distance = largest(logits.map((z, v) => Math.abs(z - wanted[v])));
    report.difference = Math.max(report.difference, distance);
    const chosen = argmax(logits);
    if (chosen !== token) report.flips.push({ step, gap: wanted[token] - wanted[chosen] });
    fresh = [token];
  });
  return report;
}

for (const [name, least] of [["tiny", 50], ["nano", 12], ["odd", 4]]) {
  test(`${name}: logits and greedy text are those of PyTorch`, (t) => {
    const model = load(name);
    const bank = golden[name];
    const logits = parseSafetensors(bytes(`${name}.safetensors`));
    assert.ok(bank.length >= least);
    const reports = bank.map((item, i) => follow(model, item, logits.get(String(i)).data));
    const difference = largest(reports.map((report) => report.difference));
    const flips = reports.flatMap((report) => report.flips);
    const steps = bank.reduce((sum, { tokens }) => sum + tokens.length, 0);
    t.diagnostic(
      `${name}: ${bank.length} prompts, ${steps} steps, largest difference of a logit ` +
        `${difference.toExponential(1)}, other tokens at ties: ${JSON.stringify(flips)}`,
    );
    assert.ok(difference < CLOSE, `logits differ by ${difference}`);
    assert.deepEqual(flips.filter(({ gap }) => gap > TIE), []);
  });
}

test("prompts have the same tokens here", () => {
  const bank = golden.tiny.filter(({ text }) => text !== null);
  for (const { text, ids } of bank) assert.deepEqual(tokenizer.encode(text), ids);
});

test("one pass, token by token and in chunks give the same numbers", () => {
  const model = load("nano");
  for (const { ids } of golden.nano) {
    const whole = model.forward(ids, model.start());
    const [single, chunked] = [model.start(), model.start()];
    const last = ids.map((id) => model.forward([id], single)).at(-1);
    const cut = Math.ceil(ids.length / 3);
    if (cut < ids.length) model.forward(ids.slice(0, cut), chunked);
    const rest = cut < ids.length ? ids.slice(cut) : ids;
    assert.deepEqual(last, whole);
    assert.deepEqual(model.forward(Uint16Array.from(rest), chunked), whole);
  }
});

test("a cache cut back is as good as new", () => {
  const model = load("tiny");
  const ids = tokenizer.encode("Tom saw a big red ball in the park and he was very happy");
  const cache = model.start();
  model.forward(ids, cache);
  for (const length of [ids.length - 1, 7, 1, 0]) {
    cache.length = length;
    const other = [200 + length, 300, 400];
    const branch = model.forward(other, cache);
    assert.equal(cache.length, length + 3);
    assert.deepEqual(branch, model.forward([...ids.slice(0, length), ...other], model.start()));
  }
});

test("a clone and its original go their own ways", () => {
  const model = load("nano");
  const ids = tokenizer.encode("Once upon a time");
  const original = model.start();
  model.forward(ids, original);
  const copy = original.clone();
  const left = model.forward([300, 301], original);
  const right = model.forward([400], copy);
  assert.deepEqual(left, model.forward([...ids, 300, 301], model.start()));
  assert.deepEqual(right, model.forward([...ids, 400], model.start()));
  assert.deepEqual([original.length, copy.length], [ids.length + 2, ids.length + 1]);
});

test("what does not fit is refused, and the cache stays as it was", () => {
  const model = load("nano");
  const cache = model.start();
  model.forward([1, 2, 3], cache);
  const refuse = (ids, message) =>
    assert.throws(() => model.forward(ids, cache), { name: "RangeError", message });
  for (const id of [-1, 2048, 0.5, NaN, undefined]) {
    refuse([5, id], `ids[1]=${id} must be an integer in 0..2047`);
  }
  refuse([], /ids.length=0 after 3 cached tokens must be >= 1/);
  refuse(Array(510).fill(1), /ids.length=510 after 3 .* at most n_positions=512/);
  assert.equal(cache.length, 3);
  for (const length of [4, -1, 1.5]) {
    assert.throws(() => (cache.length = length), /length=\S+ must be an integer in 0\.\.3/);
  }
  assert.throws(() => load("nano").forward([1], cache), /start\(\) of the same model/);
  model.forward(Array(509).fill(1), cache);
  refuse([1], /ids.length=1 after 512/);
});

test("a file that does not fit its config is refused by name", () => {
  const config = configOf("odd");
  const change = (edit) => {
    const tensors = tensorsOf("odd");
    edit(tensors);
    return () => new GPT2(config, tensors);
  };
  const name = "transformer.h.1.mlp.c_fc.weight";
  assert.throws(change((tensors) => tensors.delete(name)), {
    name: "RangeError",
    message: `tensor "${name}" is missing; the config wants it with shape [18,23]`,
  });
  const turned = { shape: [23, 18], data: new Float32Array(23 * 18) };
  assert.throws(change((tensors) => tensors.set(name, turned)), /has shape \[23,18\]/);
  assert.throws(change((tensors) => tensors.set("lm_head.weight", turned)), /"lm_head.weight"/);
});

test("a config that asks for something else is refused by name", () => {
  const tensors = tensorsOf("odd");
  const other = {
    model_type: "llama",
    activation_function: "relu",
    scale_attn_weights: false,
    scale_attn_by_inverse_layer_idx: true,
    add_cross_attention: true,
    tie_word_embeddings: false,
    vocab_size: 0,
    n_positions: 1.5,
    n_layer: undefined,
    n_head: 4,
    n_embd: "18",
    layer_norm_epsilon: 0,
  };
  for (const [name, value] of Object.entries(other)) {
    assert.throws(
      () => new GPT2({ ...configOf("odd"), [name]: value }, tensors),
      (error) => error instanceof RangeError && error.message.includes(`has ${name}=${value}`),
    );
  }
});

test("every half-precision number is read as it is", () => {
  const { data, shape } = parseSafetensors(bytes("halves.safetensors")).get("F16");
  const wanted = parseSafetensors(bytes("halves.safetensors")).get("F32").data;
  assert.deepEqual(shape, [256, 256]);
  assert.ok(data.every((value, i) => Object.is(value, wanted[i])));
});

test("a file may lie anywhere in a buffer", () => {
  const file = bytes("odd/model.safetensors");
  const shifted = new Uint8Array(file.length + 3);
  shifted.set(file, 3);
  const view = new DataView(shifted.buffer, 3);
  assert.deepEqual(parseSafetensors(view), parseSafetensors(shifted.slice(3).buffer));
});

test("a broken file is refused", () => {
  const file = bytes("odd/model.safetensors");
  assert.throws(() => parseSafetensors("weights"), { name: "TypeError", message: /file=weights/ });
  assert.throws(() => parseSafetensors(file.subarray(0, 5)), /5 bytes is no safetensors file/);
  assert.throws(() => parseSafetensors(new TextEncoder().encode("<!doctype html>")), RangeError);
  assert.throws(() => parseSafetensors(file.subarray(0, file.length - 1)), /must span the \d+/);
  assert.throws(() => parseSafetensors(bytes("integers.safetensors")), {
    name: "TypeError",
    message: 'tensor "ids" has dtype I64; it must be one of F32, F16',
  });
});
