/**
 * The decoding pipeline of the Python library, in JavaScript.
 *
 * Names, order and numbers are those of the Python functions: settings carry the
 * parameter names of `transformers.GenerationConfig`, logits are float32 with removed
 * tokens at -Infinity, masses are summed in float64 over the whole vocabulary, and the
 * uniforms are the same bit for bit. Stages return new arrays. Golden vectors written
 * by the Python side hold every function here.
 *
 * @typedef {Float32Array | Float64Array | number[]} Numbers
 * @typedef {Object} Settings
 * @property {boolean} [do_sample] draw the token; false takes the most probable one
 * @property {number} [temperature] T > 0
 * @property {number} [top_k] keep the k most probable tokens; 0 is off
 * @property {number} [top_p] keep the smallest set with this mass; 1 is off
 * @property {number} [no_repeat_ngram_size] ban repeated n-grams; 0 is off
 * @property {number} [min_new_tokens] no end of sequence before so many new tokens
 * @property {number[]} [eos_token_id] the ids that end a sequence
 *
 * @typedef {Object} Step
 * @property {number[]} input_ids tokens so far
 * @property {number} [index] number of new tokens so far
 *
 * @typedef {Object} Stage
 * @property {string} name
 * @property {number} value its parameter
 * @property {(step: Step, logits: Float32Array) => Float32Array} apply
 */

const LOWEST = -3.4028234663852886e38; // of float32; only a removed token goes below
const SMALLEST = 1.1754943508222875e-38; // the smallest normal float32

/** A stage left no token to choose from. */
export class EmptySupportError extends Error {}

/** The largest number of an array. @param {Numbers} values */
export function maximum(values) {
  let most = -Infinity;
  for (const value of values) if (value > most) most = value;
  return most;
}

/** Refuse NaN, +Infinity and a row of -Infinity only. @param {Numbers} logits */
export function checkLogits(logits, stage = "model") {
  let most = -Infinity;
  for (const value of logits) {
    if (Number.isNaN(value)) throw new RangeError(`${stage}: logits hold NaN`);
    if (value > most) most = value;
  }
  if (most === Infinity) throw new RangeError(`${stage}: logits hold +Infinity`);
  if (most === -Infinity) {
    throw new EmptySupportError(`${stage}: no token is left to choose from`);
  }
}

/**
 * Probabilities p_v = exp(z_v) / sum exp(z_w), chapter 1.
 * @param {Numbers} logits
 * @returns {Float64Array}
 */
export function softmax(logits) {
  const most = maximum(logits);
  const p = Float64Array.from(logits, (z) => Math.exp(z - most));
  let total = 0;
  for (const mass of p) total += mass;
  for (let v = 0; v < p.length; v++) p[v] /= total;
  return p;
}

/** Entropy of softmax(logits) in nats, chapter 1. @param {Numbers} logits */
export function entropy(logits) {
  let sum = 0;
  for (const p of softmax(logits)) if (p > 0) sum -= p * Math.log(p);
  return sum;
}

/**
 * Divide by a temperature, chapter 2. Rounded to float32 at each operation, as there.
 * @param {Float32Array} logits
 * @param {number} temperature T > 0
 */
export function applyTemperature(logits, temperature) {
  checkNumber("temperature", temperature, { above: 0 });
  if (temperature === 1) return logits.slice();
  const most = maximum(logits);
  const divisor = Math.fround(Math.min(Math.max(temperature, SMALLEST), -LOWEST));
  return logits.map((z) =>
    z === -Infinity ? z : Math.max(Math.fround(z - most) / divisor, LOWEST),
  );
}

/**
 * Keep the k largest logits and what ties with the last of them, chapter 3.
 * @param {Float32Array} logits
 * @param {number} top_k 0 is off
 */
export function applyTopK(logits, top_k) {
  checkInteger("top_k", top_k);
  if (top_k === 0 || top_k >= logits.length) return logits.slice();
  return keepFrom(logits, descending(logits)[top_k - 1]);
}

/**
 * Keep the smallest set of best tokens with mass top_p, ties whole, chapter 4.
 * @param {Float32Array} logits
 * @param {number} top_p 0 < top_p <= 1; 1 is off
 */
export function applyTopP(logits, top_p) {
  checkNumber("top_p", top_p, { above: 0, most: 1 });
  if (top_p === 1) return logits.slice();
  const ranked = descending(logits);
  return keepFrom(logits, ranked[crossingRank(ranked, top_p)]);
}

/**
 * The 0-based rank at which the mass of the best tokens reaches top_p.
 * @param {Float32Array} ranked logits in descending order
 * @param {number} top_p
 */
export function crossingRank(ranked, top_p) {
  const mass = cumulativeMass(ranked, ranked[0]);
  // As in the Python: a mass within 1e-12 of top_p has reached it.
  const wanted = (top_p - 1e-12) * mass[mass.length - 1];
  const rank = mass.findIndex((m) => m >= wanted);
  return rank < 0 ? ranked.length - 1 : rank;
}

/**
 * The tokens that would complete an n-gram of the history, chapter 5.
 * @param {number[]} input_ids the history, prompt included
 * @param {number} n order of the ban
 * @returns {Set<number>}
 */
export function bannedTokens(input_ids, n) {
  const banned = new Set();
  const start = input_ids.length - n + 1; // where the current suffix begins
  for (let i = 0; i < start; i++) {
    let same = 0;
    while (same < n - 1 && input_ids[i + same] === input_ids[start + same]) same++;
    if (same === n - 1) banned.add(input_ids[i + n - 1]);
  }
  return banned;
}

/**
 * Remove each token that would complete an n-gram of the history, chapter 5.
 * @param {number[]} input_ids
 * @param {Float32Array} logits
 * @param {number} no_repeat_ngram_size 0 is off
 */
export function applyNoRepeatNgram(input_ids, logits, no_repeat_ngram_size) {
  checkInteger("no_repeat_ngram_size", no_repeat_ngram_size);
  const out = logits.slice();
  if (no_repeat_ngram_size === 0) return out;
  for (const token of bannedTokens(input_ids, no_repeat_ngram_size)) {
    if (token < out.length) out[token] = -Infinity;
  }
  return out;
}

/** The most probable token, at a tie the lowest id, chapter 6. @param {Numbers} logits */
export function greedy(logits) {
  return logits.indexOf(maximum(logits));
}

/**
 * Invert the cumulative distribution, in id order, at u, chapter 6.
 * @param {Numbers} logits
 * @param {number} u in [0, 1)
 */
export function sample(logits, u) {
  checkNumber("u", u, { least: 0, below: 1 });
  const mass = cumulativeMass(logits, maximum(logits));
  const target = u * mass[mass.length - 1];
  const token = mass.findIndex((m) => m > target);
  return token < 0 ? logits.length - 1 : token;
}

/**
 * The uniform of one (seed, sample, step), chapter 6: 53 bits of Philox-4x32-10 with
 * key (seed mod 2^32, seed div 2^32) and counter (step, sample, 0, 0).
 * @param {number} seed 0 <= seed < 2^53
 * @param {number} sample index of the sample, 0 for the first
 * @param {number} step index of the new token, 0 for the first
 */
export function uniform(seed, sample, step) {
  checkInteger("seed", seed);
  checkInteger("sample", sample, 2 ** 32 - 1);
  checkInteger("step", step, 2 ** 32 - 1);
  const [x0, x1] = philox([step, sample, 0, 0], [seed % 2 ** 32, Math.floor(seed / 2 ** 32)]);
  return ((x0 >>> 5) * 2 ** 26 + (x1 >>> 6)) / 2 ** 53;
}

/**
 * The stages of the standard order: bans, temperature, top-k, top-p. A neutral setting
 * adds none, and without sampling only the bans act.
 * @param {Settings} settings
 * @returns {Stage[]}
 */
export function buildPipeline(settings) {
  const s = checkSettings(settings);
  const stages = [];
  if (s.min_new_tokens && s.eos_token_id.length) stages.push(minNewTokens(s));
  if (s.no_repeat_ngram_size) stages.push(stage("no_repeat_ngram", s.no_repeat_ngram_size));
  if (s.do_sample && s.temperature !== 1) stages.push(stage("temperature", s.temperature));
  if (s.do_sample && s.top_k) stages.push(stage("top_k", s.top_k));
  if (s.do_sample && s.top_p !== 1) stages.push(stage("top_p", s.top_p));
  return stages;
}

/**
 * One stage by its name, for pipelines in another order.
 * @param {"temperature" | "top_k" | "top_p" | "no_repeat_ngram"} name
 * @param {number} value
 * @returns {Stage}
 */
export function stage(name, value) {
  const apply = {
    temperature: (step, logits) => applyTemperature(logits, value),
    top_k: (step, logits) => applyTopK(logits, value),
    top_p: (step, logits) => applyTopP(logits, value),
    no_repeat_ngram: (step, logits) => applyNoRepeatNgram(step.input_ids, logits, value),
  }[name];
  return { name, value, apply };
}

/**
 * Run stages in order; the logits before the first and after each.
 * @param {Stage[]} stages
 * @param {Step} step
 * @param {Float32Array} logits
 * @returns {Float32Array[]} one more than there are stages
 */
export function process(stages, step, logits) {
  checkLogits(logits);
  const course = [logits];
  for (const { name, apply } of stages) {
    course.push(apply(step, course[course.length - 1]));
    checkLogits(course[course.length - 1], `stage ${name}`);
  }
  return course;
}

/**
 * Choose from processed logits: greedy where u is undefined, else by the draw u.
 * @param {Float32Array} logits
 * @param {number} [u]
 */
export function select(logits, u) {
  return u === undefined ? greedy(logits) : sample(logits, u);
}

/**
 * Fill in the neutral defaults and refuse what is out of range, by name.
 * @param {Settings} settings
 * @returns {Required<Settings>}
 */
export function checkSettings(settings) {
  const s = {
    do_sample: false,
    temperature: 1,
    top_k: 0,
    top_p: 1,
    no_repeat_ngram_size: 0,
    min_new_tokens: 0,
    eos_token_id: [],
    ...settings,
  };
  if (s.do_sample) {
    checkNumber("temperature", s.temperature, { above: 0 });
    checkNumber("top_p", s.top_p, { above: 0, most: 1 });
  }
  for (const name of ["top_k", "no_repeat_ngram_size", "min_new_tokens"]) {
    checkInteger(name, s[name]);
  }
  return s;
}

/** @param {Required<Settings>} settings @returns {Stage} */
function minNewTokens({ min_new_tokens, eos_token_id }) {
  const apply = (step, logits) => {
    const out = logits.slice();
    if (step.index < min_new_tokens) for (const id of eos_token_id) out[id] = -Infinity;
    return out;
  };
  return { name: "min_new_tokens", value: min_new_tokens, apply };
}

/** @param {Float32Array} logits @param {number} threshold */
function keepFrom(logits, threshold) {
  return logits.map((z) => (z < threshold ? -Infinity : z));
}

/** @param {Float32Array} logits a copy in descending order is returned */
function descending(logits) {
  return logits.slice().sort().reverse();
}

/** Running sums of exp(z - shift) in float64. @param {Numbers} logits */
function cumulativeMass(logits, shift) {
  let sum = 0;
  return Float64Array.from(logits, (z) => (sum += Math.exp(z - shift)));
}

/**
 * The Philox-4x32 block function with ten rounds (Salmon et al. 2011).
 * @param {number[]} counter four 32-bit words
 * @param {number[]} key two 32-bit words
 */
export function philox([a, b, c, d], [k0, k1]) {
  for (let round = 0; round < 10; round++) {
    const [leftHigh, leftLow] = product32(a, 0xd2511f53);
    const [rightHigh, rightLow] = product32(c, 0xcd9e8d57);
    [a, b, c, d] = [rightHigh ^ b ^ k0, rightLow, leftHigh ^ d ^ k1, leftLow];
    k0 = (k0 + 0x9e3779b9) | 0; // golden ratio and sqrt(3) - 1, as 32-bit fractions
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}

/** The 64-bit product of two 32-bit words, as its high and its low word. */
function product32(x, y) {
  const product = BigInt(x >>> 0) * BigInt(y >>> 0);
  return [Number(product >> 32n), Number(product & 0xffffffffn)];
}

/** @param {string} name @param {number} value @param {number} [most] */
function checkInteger(name, value, most = Number.MAX_SAFE_INTEGER) {
  if (!Number.isInteger(value) || value < 0 || value > most) {
    throw new RangeError(`${name}=${value} must be an integer from 0 to ${most}`);
  }
}

/** @param {string} name @param {number} value */
function checkNumber(name, value, { above, least, most, below }) {
  const inside =
    Number.isFinite(value) &&
    (above === undefined || value > above) &&
    (least === undefined || value >= least) &&
    (most === undefined || value <= most) &&
    (below === undefined || value < below);
  if (inside) return;
  const limits = [
    above !== undefined && `> ${above}`,
    least !== undefined && `>= ${least}`,
    most !== undefined && `<= ${most}`,
    below !== undefined && `< ${below}`,
  ].filter(Boolean);
  throw new RangeError(`${name}=${value} must be a number ${limits.join(" and ")}`);
}
