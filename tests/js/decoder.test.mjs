// lib/widgets/decoder.js on golden vectors that lib wrote (tests/test_js_decoder.py).
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import * as decoder from "../../lib/widgets/decoder.js";

const golden = JSON.parse(fs.readFileSync(process.env.GOLDEN, "utf8"));

function keptIds(logits) {
  return [...logits.keys()].filter((v) => logits[v] > -Infinity);
}

function run({ logits, input_ids, index, settings, u }) {
  const z = Float32Array.from(logits, (value) => value ?? -Infinity);
  const before = z.slice();
  const stages = decoder.buildPipeline(settings);
  const course = decoder.process(stages, { input_ids, index }, z);
  assert.deepEqual(z, before, "a stage changed its input");
  const final = course.at(-1);
  return {
    stages: stages.map((stage) => stage.name),
    kept: course.slice(1).map(keptIds),
    law: decoder.softmax(final),
    entropy: decoder.entropy(final),
    token: decoder.select(final, settings.do_sample ? u : undefined),
  };
}

test("stages, laws and tokens", { skip: !golden.cases }, () => {
  const counts = { cases: 0, empty: 0, sampled: 0, near: 0, flipped: 0 };
  let furthest = 0;
  for (const [number, item] of golden.cases.entries()) {
    const { expected } = item;
    counts.cases++;
    if (expected.empty) {
      counts.empty++;
      assert.throws(
        () => run(item),
        (error) =>
          error instanceof decoder.EmptySupportError && error.message.includes(expected.empty),
        `case ${number}`,
      );
      continue;
    }
    const got = run(item);
    assert.deepEqual(got.stages, expected.stages, `case ${number}`);
    assert.deepEqual(got.kept, expected.kept, `case ${number}`);
    for (const [v, p] of expected.law.entries()) {
      furthest = Math.max(furthest, Math.abs(got.law[v] - p));
    }
    assert.ok(Math.abs(got.entropy - expected.entropy) < 1e-6, `case ${number}`);
    if (item.settings.do_sample) counts.sampled++;
    if (expected.near) counts.near++;
    if (got.token !== expected.token) {
      assert.ok(expected.near, `case ${number}: token ${got.token}, not ${expected.token}`);
      counts.flipped++;
    }
  }
  assert.ok(furthest < 1e-6, `a probability differs by ${furthest}`);
  console.log(Object.entries(counts).map(([name, n]) => `${name}=${n}`).join(" "));
  console.log(`largest difference of a probability: ${furthest}`);
});

test("uniforms", { skip: !golden.uniforms }, () => {
  for (const { key, u } of golden.uniforms) {
    assert.equal(decoder.uniform(...key), u, `key ${key}`);
  }
  console.log(`uniforms=${golden.uniforms.length}`);
});

test("bad settings", { skip: !golden.refused }, () => {
  for (const { settings, says } of golden.refused) {
    // JSON has no NaN: null stands for it.
    const given = Object.fromEntries(
      Object.entries(settings).map(([name, value]) => [name, value ?? NaN]),
    );
    assert.throws(
      () => decoder.buildPipeline(given),
      (error) => error instanceof RangeError && error.message.includes(says),
    );
  }
  console.log(`refused=${golden.refused.length}`);
});
