// lib/widgets/ledger.js on what the chapter's functions say (tests/test_widgets_roofline.py).
import assert from "node:assert/strict";
import { test } from "node:test";
import { account, bytesOf, operationsOf, ridgeBatch, ridgeOf } from "../../lib/widgets/ledger.js";
import { golden } from "./golden.mjs";

function near(got, wanted, what) {
  assert.ok(Math.abs(got / wanted - 1) < 1e-12, `${what}: ${got}, not ${wanted}`);
}

test("operations, bytes, floor and what limits", () => {
  for (const { model, step, machine, expected } of golden) {
    const which = JSON.stringify({ model, step, machine });
    const { weights, caches } = bytesOf(model, step);
    const found = account(model, step, machine);
    assert.equal(operationsOf(model, step), expected.operations, which);
    assert.equal(found.operations, expected.operations, which);
    assert.equal(weights + caches, expected.bytes, which);
    assert.equal(found.bytes, expected.bytes, which);
    assert.equal(found.limit, expected.limit, which);
    near(found.floor, expected.floor, which);
    near(found.tokens, step.m / expected.floor, which);
    near(found.intensity, expected.operations / expected.bytes, which);
    const { weights: w, caches: c, arithmetic } = found.seconds;
    near(Math.max(w + c, arithmetic), expected.floor, which);
  }
});

test("at the ridge and m*, reading and arithmetic take the same time", () => {
  for (const { model, step, machine } of golden) {
    const short = { ...step, t: 0, m: ridgeBatch(machine, step.b) };
    const { seconds, intensity } = account(model, short, machine);
    near(intensity, ridgeOf(machine), "intensity");
    near(seconds.arithmetic, seconds.weights, "seconds");
  }
});
