// What the playground knows without a page: its knobs, its links, its comparison.
import assert from "node:assert/strict";
import test from "node:test";

import { compare } from "../../book/_static/playground/compare.js";
import * as facts from "../../book/_static/playground/facts.js";
import * as knobs from "../../book/_static/playground/knobs.js";
import { decode, encode, isLink } from "../../book/_static/playground/link.js";
import { golden } from "./golden.mjs";

const knob = (name) => [...knobs.KNOBS, knobs.SEED].find((each) => each.name === name);
const settings = (changed) => ({ ...knobs.defaults(), ...changed });

test("what the page says of the model is true", () => {
  assert.deepEqual(
    { ...facts },
    golden.facts,
    "book/_static/playground/facts.js must say what lib/weights/tiny holds",
  );
});

test("values are read as lib reads them", () => {
  const legal = {
    do_sample: { true: true, false: false },
    temperature: { "0.8": 0.8, "1e-3": 1e-3, " 2 ": 2, ".5": 0.5, 100: 100 },
    top_k: { 0: 0, 50: 50, 99999: 99999 },
    top_p: { "0.9": 0.9, 1: 1, "1.0": 1, "1e-9": 1e-9 },
    max_new_tokens: { 1: 1 },
    seed: { 0: 0, "9007199254740991": 2 ** 53 - 1 },
  };
  for (const [name, cases] of Object.entries(legal)) {
    for (const [text, value] of Object.entries(cases)) {
      assert.equal(knobs.parse(knob(name), text), value, `${name}=${text}`);
    }
  }
});

test("what is out of range is refused with parameter, value and range", () => {
  const refused = [
    ["do_sample", "yes", "do_sample=yes must be true or false"],
    ["temperature", "0", "temperature=0 must be a number > 0"],
    ["temperature", "-1", "temperature=-1 must be a number > 0"],
    ["temperature", "", "temperature='' must be a number > 0"],
    ["temperature", "0,8", "temperature=0,8 must be a number > 0"],
    ["temperature", "Infinity", "temperature=Infinity must be a number > 0"],
    ["temperature", "0x10", "temperature=0x10 must be a number > 0"],
    ["top_p", "1.01", "top_p=1.01 must be a number > 0 and <= 1"],
    ["top_p", "0", "top_p=0 must be a number > 0 and <= 1"],
    ["top_k", "-1", "top_k=-1 must be an integer >= 0"],
    ["top_k", "2.5", "top_k=2.5 must be an integer >= 0"],
    ["max_new_tokens", "0", "max_new_tokens=0 must be an integer >= 1"],
    ["seed", "9007199254740992", "seed=9007199254740992 must be an integer from 0 to 9007199254740991"],
  ];
  for (const [name, text, message] of refused) {
    assert.throws(() => knobs.parse(knob(name), text), { name: "RangeError", message });
  }
});

test("lengths that cannot be are refused as lib.generate refuses them", () => {
  knobs.checkLengths(12, settings({ max_new_tokens: 500 }), 512);
  const refused = [
    [0, {}, "prompt", "the prompt has no tokens"],
    [512, {}, "prompt", "the prompt has 512 tokens and the model a context of 512"],
    [12, { max_new_tokens: 501 }, "max_new_tokens", "max_new_tokens=501 must be an integer from 1 to 500"],
    [12, { min_new_tokens: 81 }, "min_new_tokens", "min_new_tokens=81 must be an integer from 0 to 80"],
  ];
  for (const [length, changed, field, says] of refused) {
    assert.throws(
      () => knobs.checkLengths(length, settings(changed), 512),
      (error) => error.field === field && error.message.startsWith(says),
    );
  }
});

const REQUESTS = [
  {
    prompt: "Once upon a time",
    seed: 1,
    columns: [{ settings: settings(), forced: new Map() }],
  },
  {
    prompt: "tab\tline\nquote\" & = # % + ünï 🐉 <b>  ",
    seed: 2 ** 53 - 1,
    columns: [
      { settings: settings({ do_sample: false, temperature: 1e-7 }), forced: new Map([[0, 5], [17, 2047]]) },
      { settings: settings({ top_p: 0.123456789012345, top_k: 3 }), forced: new Map([[3, 0]]) },
    ],
  },
  { prompt: "", seed: 0, columns: [{ settings: settings({ min_new_tokens: 9 }), forced: new Map() }] },
];

test("a link gives back what it was made of", () => {
  for (const request of REQUESTS) {
    const link = encode(request);
    assert.match(link, /^[\w.*+&=%-]*$/, "a link survives being pasted anywhere");
    assert.ok(isLink(`#${link}`));
    assert.deepEqual(decode(`#${link}`), { request, problems: [] });
  }
});

test("a heading's address is no link", () => {
  assert.ok(!isLink("#what-to-try"));
  assert.ok(!isLink(""));
});

test("what a link lacks is as at the beginning, for the second text as for the first", () => {
  const { request, problems } = decode("temperature=1.6&b.top_p=0.5");
  assert.deepEqual(problems, []);
  assert.equal(request.prompt, knobs.PROMPT);
  assert.deepEqual(
    request.columns.map((column) => column.settings),
    [settings({ temperature: 1.6 }), settings({ temperature: 1.6, top_p: 0.5 })],
  );
});

test("what is wrong with a link is told, and the rest counts", () => {
  const { request, problems } = decode(
    "#prompt=A+cat&temperature=hot&top_k=-3&colour=red&seed=7&seed=8&b.top_p=2&" +
      "forced=3.5_x_4.2048_1.9&model=000000000000&%zz",
  );
  assert.equal(request.prompt, "A cat");
  assert.equal(request.seed, 7);
  assert.deepEqual(request.columns.map((column) => column.settings), [settings(), settings()]);
  assert.deepEqual([...request.columns[0].forced], [[1, 9], [3, 5]]);
  for (const part of [
    "temperature=hot must be",
    "top_k=-3 must be",
    "colour is no setting",
    "seed is there twice",
    "b.top_p=2 must be",
    "forced=x must be",
    "forced=4.2048 must be",
    "another version of the model",
    "%zz is no setting",
  ]) {
    assert.ok(problems.some((problem) => problem.startsWith(part) || problem.includes(part)), part);
  }
  assert.equal(problems.length, 9);
});

test("comparison", () => {
  const cases = [
    [[], [], { prefix: 0, differs: false, same: 0, places: 0 }],
    [[1, 2], [1, 2], { prefix: 2, differs: false, same: 2, places: 2 }],
    [[1, 2], [1, 2, 3], { prefix: 2, differs: false, same: 2, places: 2 }],
    [[1, 2, 3, 4], [1, 9, 3, 5, 6], { prefix: 1, differs: true, same: 2, places: 4 }],
    [[1], [2], { prefix: 0, differs: true, same: 0, places: 1 }],
  ];
  for (const [a, b, expected] of cases) {
    assert.deepEqual(compare(a, b), expected);
    assert.deepEqual(compare(b, a), expected);
  }
});
