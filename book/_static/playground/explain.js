/** Where a token came from: the numbers, without any drawing. */
import { best } from "../lib/figure.js";
import { buildPipeline, entropy, process, softmax } from "../lib/decoder.js";

const SHOWN = 10;

/**
 * @typedef {Object} StageRecord
 * @property {string} name
 * @property {number} value its parameter
 * @property {number} removed number of tokens
 * @property {number} mass that they had in the distribution the stage was given
 * @property {number} before entropy of that distribution, in nats
 * @property {number} after entropy of what the stage left
 *
 * @typedef {Object} Candidate
 * @property {number} id
 * @property {number} raw probability before the stages
 * @property {number} final probability after them
 * @property {string} [removedBy] the stage that removed it
 *
 * @typedef {Object} Explanation
 * @property {StageRecord[]} stages
 * @property {Candidate[]} candidates the best ones, and the token itself
 * @property {number} entropy of the model's distribution, in nats
 * @property {number} rank how many tokens have a larger logit, ties in id order
 * @property {number} raw probability of the token before the stages
 * @property {number} final its probability after them
 * @property {[number, number]} interval of the draws that choose it, in id order
 */

/**
 * @param {import("./engine.js").Step} step
 * @param {import("../lib/decoder.js").Settings} settings
 * @param {number[]} input_ids the tokens before it, prompt included
 * @returns {Explanation}
 */
export function explain({ index, logits, token }, settings, input_ids) {
  const stages = buildPipeline(settings);
  const course = process(stages, { input_ids, index }, logits);
  const raw = softmax(logits);
  const final = softmax(course.at(-1));
  const ids = best(logits, SHOWN);
  if (!ids.includes(token)) ids.push(token);
  const below = final.slice(0, token).reduce((sum, p) => sum + p, 0);
  return {
    stages: stages.map((stage, i) => record(stage, course[i], course[i + 1])),
    candidates: ids.map((id) => ({
      id,
      raw: raw[id],
      final: final[id],
      removedBy: stages[course.findIndex((z) => z[id] === -Infinity) - 1]?.name,
    })),
    entropy: entropy(logits),
    rank: logits.reduce(
      (rank, z, v) => rank + (z > logits[token] || (z === logits[token] && v < token)),
      0,
    ),
    raw: raw[token],
    final: final[token],
    interval: [below, below + final[token]],
  };
}

/** @returns {StageRecord} */
function record({ name, value }, given, left) {
  const p = softmax(given);
  let removed = 0;
  let mass = 0;
  left.forEach((z, v) => {
    if (z > -Infinity || given[v] === -Infinity) return;
    removed++;
    mass += p[v];
  });
  return { name, value, removed, mass, before: entropy(given), after: entropy(left) };
}
