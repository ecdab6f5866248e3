// The tokenizer against the Python one: every text, every way of decoding.
import assert from "node:assert/strict";
import test from "node:test";

import { Tokenizer } from "../../lib/widgets/tokenizer.js";
import { golden, json } from "./golden.mjs";

const { texts, sequences } = golden;
const file = json("tokenizer.json");
const tokenizer = new Tokenizer(file);

test("every text has the same tokens", (t) => {
  assert.ok(texts.length >= 550);
  for (const { text, ids } of texts) {
    assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  }
  t.diagnostic(`${texts.length} texts encoded`);
});

test("every sequence of tokens has the same text, valid UTF-8 or not", (t) => {
  assert.ok(sequences.length >= 550);
  for (const { ids, decoded, skipped } of sequences) {
    assert.equal(tokenizer.decode(ids), decoded, String(ids));
    assert.equal(tokenizer.decode(ids, { skip_special_tokens: true }), skipped, String(ids));
  }
  const invalid = sequences.filter(({ decoded }) => decoded.includes("\uFFFD")).length;
  assert.ok(invalid >= 100);
  t.diagnostic(`${sequences.length} sequences decoded, ${invalid} of them no UTF-8`);
});

test("a stream shows whole characters, and what the Python one shows", (t) => {
  let held = 0;
  for (const { text, ids, pieces } of texts) {
    const stream = tokenizer.stream([], { skip_special_tokens: true });
    const shown = [...ids.map((id) => stream.push(id)), stream.end()];
    held += shown.slice(0, -1).filter((piece) => piece === "").length;
    const whole = text.replaceAll("<|endoftext|>", "");
    assert.equal(shown.join(""), whole);
    if (whole.includes("\uFFFD")) continue; // Python's waits for what follows
    assert.ok(shown.every((piece) => piece.isWellFormed?.() ?? true));
    assert.deepEqual(shown.filter(Boolean), pieces, JSON.stringify(text));
  }
  assert.ok(held > 1000);
  t.diagnostic(`${held} tokens held back until a character was whole`);
});

test("a stream continues a context that ends inside a character", () => {
  const ids = tokenizer.encode("é👍");
  for (let cut = 0; cut <= ids.length; cut++) {
    const before = tokenizer.stream();
    const stream = tokenizer.stream(ids.slice(0, cut));
    const prefix = ids.slice(0, cut).map((id) => before.push(id));
    const rest = ids.slice(cut).map((id) => stream.push(id));
    assert.equal([...prefix, ...rest, stream.end()].join(""), "é👍");
  }
});

test("a long word without spaces takes no ages", () => {
  const begin = performance.now();
  assert.equal(tokenizer.decode(tokenizer.encode("ab".repeat(10_000))), "ab".repeat(10_000));
  assert.ok(performance.now() - begin < 5_000);
});

test("half a surrogate pair counts as a replacement character", () => {
  assert.deepEqual(tokenizer.encode("a\uD83Db"), tokenizer.encode("a\uFFFDb"));
});

test("ids outside the vocabulary and texts that are none are refused", () => {
  for (const id of [-1, 2048, 1.5, NaN, "7x"]) {
    assert.throws(() => tokenizer.decode([id]), {
      name: "RangeError",
      message: `token id ${id} must be an integer in 0..2047`,
    });
  }
  assert.throws(() => tokenizer.encode(7), { name: "TypeError", message: /text=7/ });
});

const UNSUPPORTED = {
  truncation: [{ max_length: 8 }, "truncation"],
  padding: [{ strategy: "BatchLongest" }, "padding"],
  normalizer: [{ type: "NFC" }, "normalizer"],
  pre_tokenizer: [{ type: "Whitespace" }, "pre_tokenizer.type"],
  decoder: [{ type: "WordPiece" }, "decoder.type"],
  post_processor: [{ type: "BertProcessing" }, "post_processor"],
  "pre_tokenizer.add_prefix_space": [true],
  "pre_tokenizer.use_regex": [false],
  "model.type": ["Unigram"],
  "model.dropout": [0.1],
  "model.unk_token": ["?"],
  "model.continuing_subword_prefix": ["##"],
  "model.end_of_word_suffix": ["</w>"],
  "model.fuse_unk": [true],
  "model.byte_fallback": [true],
  "model.ignore_merges": [true],
  "added_tokens.0.single_word": [true, 'added_tokens "<|endoftext|>".single_word'],
  "added_tokens.0.lstrip": [true, 'added_tokens "<|endoftext|>".lstrip'],
  "added_tokens.0.rstrip": [true, 'added_tokens "<|endoftext|>".rstrip'],
  "added_tokens.0.normalized": [true, 'added_tokens "<|endoftext|>".normalized'],
  "added_tokens.0.special": [false, 'added_tokens "<|endoftext|>".special'],
};

for (const [path, [value, name = path]] of Object.entries(UNSUPPORTED)) {
  test(`another ${path} is refused by name`, () => {
    const keys = path.split(".");
    const changed = structuredClone(file);
    keys.slice(0, -1).reduce((part, key) => part[key], changed)[keys.at(-1)] = value;
    assert.throws(
      () => new Tokenizer(changed),
      (error) => error instanceof RangeError && error.message.includes(`has ${name}=`),
    );
  });
}

test("a vocabulary with a gap, or without a byte, is refused", () => {
  const gap = structuredClone(file);
  delete gap.model.vocab["Ġthe"];
  assert.throws(() => new Tokenizer(gap), /model.vocab has no token \d+/);
  const foreign = structuredClone(file);
  foreign.model.vocab["語"] = 2048;
  assert.throws(() => new Tokenizer(foreign), /"語" must stand for a byte/);
});
