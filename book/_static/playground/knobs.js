/**
 * The knobs: names and meanings are those of `transformers.GenerationConfig`.
 *
 * @typedef {Object} Knob
 * @property {string} name
 * @property {"switch" | "number" | "integer"} kind
 * @property {boolean | number} value at first
 * @property {number} [above] every value is larger
 * @property {number} [least]
 * @property {number} [most]
 * @property {number} [step] what one press of an arrow key adds
 * @property {boolean} [sampling] has no effect without do_sample
 * @property {string} says what it does, in a line
 * @property {string} chapter the page that derives it
 */

/** @type {Knob[]} */
export const KNOBS = [
  {
    name: "do_sample",
    kind: "switch",
    value: true,
    says: "Draw each token. Off: take the most probable one.",
    chapter: "06_greedy_vs_sampling",
  },
  {
    name: "temperature",
    kind: "number",
    above: 0,
    value: 0.8,
    step: 0.1,
    sampling: true,
    says: "Below 1 sharper, above 1 flatter.",
    chapter: "02_temperature",
  },
  {
    name: "top_k",
    kind: "integer",
    least: 0,
    value: 0,
    step: 5,
    sampling: true,
    says: "Keep the k most probable tokens. 0: off.",
    chapter: "03_top_k",
  },
  {
    name: "top_p",
    kind: "number",
    above: 0,
    most: 1,
    value: 0.9,
    step: 0.05,
    sampling: true,
    says: "Keep the best tokens up to this mass. 1: off.",
    chapter: "04_top_p",
  },
  {
    name: "no_repeat_ngram_size",
    kind: "integer",
    least: 0,
    value: 0,
    step: 1,
    says: "Never the same n tokens in a row twice. 0: off.",
    chapter: "05_ngram_ban",
  },
  {
    name: "min_new_tokens",
    kind: "integer",
    least: 0,
    value: 0,
    step: 10,
    says: "No end of the text before so many tokens.",
    chapter: "07_generator",
  },
  {
    name: "max_new_tokens",
    kind: "integer",
    least: 1,
    value: 80,
    step: 20,
    says: "At most so many tokens.",
    chapter: "07_generator",
  },
];

/** @type {Knob} */
export const SEED = {
  name: "seed",
  kind: "integer",
  least: 0,
  most: Number.MAX_SAFE_INTEGER,
  value: 1,
  step: 1,
  sampling: true,
  says: "Fixes the luck: the same seed, the same draws.",
  chapter: "06_greedy_vs_sampling",
};

export const PROMPT = "Once upon a time";

/** @returns {Record<string, boolean | number>} */
export function defaults() {
  return Object.fromEntries(KNOBS.map(({ name, value }) => [name, value]));
}

const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * The value that a text stands for.
 * @param {Knob} knob
 * @param {string} text
 * @throws {RangeError} which names the parameter, the text and what is allowed
 */
export function parse(knob, text) {
  const written = text.trim();
  if (knob.kind === "switch" && ["true", "false"].includes(written)) return written === "true";
  const pattern = { integer: /^\d+$/, number: DECIMAL, switch: /^(?!)/ }[knob.kind];
  const value = pattern.test(written) ? Number(written) : NaN;
  const inside =
    Number.isFinite(value) &&
    value > (knob.above ?? -Infinity) &&
    value >= (knob.least ?? -Infinity) &&
    value <= (knob.most ?? Infinity);
  if (inside) return value;
  throw new RangeError(`${knob.name}=${written || "''"} must be ${allowed(knob)}`);
}

/** @param {Knob} knob */
function allowed({ kind, above, least, most }) {
  if (kind === "switch") return "true or false";
  if (kind === "integer") {
    return most === undefined ? `an integer >= ${least}` : `an integer from ${least} to ${most}`;
  }
  return `a number > ${above}` + (most === undefined ? "" : ` and <= ${most}`);
}

/**
 * Refuse lengths that cannot be, as `lib.generate` does.
 * @param {number} length of the prompt, in tokens
 * @param {Record<string, any>} settings
 * @param {number} context the most tokens that the model can see
 * @throws {LengthError}
 */
export function checkLengths(length, { min_new_tokens, max_new_tokens }, context) {
  if (length === 0) {
    throw new LengthError("prompt", "the prompt has no tokens; it must have at least one");
  }
  if (length >= context) {
    const most = `at most ${context - 1} are allowed, so that one can be added`;
    throw new LengthError(
      "prompt",
      `the prompt has ${length} tokens and the model a context of ${context}: ${most}`,
    );
  }
  if (length + max_new_tokens > context) {
    throw new LengthError(
      "max_new_tokens",
      `max_new_tokens=${max_new_tokens} must be an integer from 1 to ${context - length}: ` +
        `the prompt has ${length} tokens and the model a context of ${context}`,
    );
  }
  if (min_new_tokens > max_new_tokens) {
    throw new LengthError(
      "min_new_tokens",
      `min_new_tokens=${min_new_tokens} must be an integer from 0 to ${max_new_tokens}, ` +
        "the value of max_new_tokens",
    );
  }
}

/** A length out of range; `field` is what to change. */
export class LengthError extends RangeError {
  /** @param {string} field @param {string} message */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}
