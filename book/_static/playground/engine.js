/** The loop: a model, a pipeline, and luck, one token at a time. */
import { buildPipeline, process, select, uniform } from "../lib/decoder.js";

/**
 * @typedef {Object} Order
 * @property {number[]} prompt token ids
 * @property {number[]} tokens the new tokens that are already there
 * @property {Map<number, number>} forced tokens that were chosen by hand, by step
 * @property {import("../lib/decoder.js").Settings} settings
 * @property {number} max_new_tokens
 * @property {number} seed
 *
 * @typedef {Object} Step
 * @property {number} index number of new tokens before it
 * @property {Float32Array} logits the model's, (vocab,)
 * @property {number} [u] the draw; none without sampling
 * @property {number} chosen what the pipeline chose
 * @property {number} token what was taken: `chosen`, unless another was forced
 */

/** A model with the keys and values of one text, which it reuses as far as they go. */
export class Lane {
  #model;
  #cache;
  /** @type {number[]} what the cache has seen */
  #seen = [];

  /** @param {import("../lib/gpt2.js").GPT2} model */
  constructor(model) {
    this.#model = model;
    this.#cache = model.start();
  }

  /**
   * The logits of the token after `ids`.
   * @param {number[]} ids
   * @returns {Float32Array} (vocab,)
   */
  logits(ids) {
    let known = 0;
    const most = Math.min(this.#seen.length, ids.length - 1); // one must be new
    while (known < most && this.#seen[known] === ids[known]) known++;
    this.#cache.length = known;
    this.#seen = ids.slice(0, known);
    const logits = this.#model.forward(ids.slice(known), this.#cache);
    this.#seen = ids.slice();
    return logits;
  }
}

/**
 * Write on, step by step.
 * @param {Lane} lane
 * @param {Order} order
 * @returns {Generator<Step, "eos" | "length">} at last, what ended the text
 */
export function* write(lane, { prompt, tokens, forced, settings, max_new_tokens, seed }) {
  const stages = buildPipeline(settings);
  const input_ids = [...prompt, ...tokens];
  for (let index = tokens.length; index < max_new_tokens; index++) {
    const logits = lane.logits(input_ids);
    const final = process(stages, { input_ids, index }, logits).at(-1);
    const u = settings.do_sample ? uniform(seed, 0, index) : undefined;
    const chosen = select(final, u);
    const token = forced.get(index) ?? chosen;
    yield { index, logits, u, chosen, token };
    if (settings.eos_token_id.includes(token)) return "eos";
    input_ids.push(token);
  }
  return "length";
}
