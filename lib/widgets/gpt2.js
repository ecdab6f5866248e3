/**
 * GPT-2 in plain JavaScript: token ids in, the next token's logits out.
 *
 * Read it from `forward` down. A token's vector is the sum of its embedding and its
 * position's. Each block adds to the vector what attention finds in earlier tokens,
 * then what a small network makes of the result. The logits are the dot products of
 * the last vector with the embeddings of all tokens.
 *
 * What a token offers to later ones, its keys and values, depends on no later token.
 * The cache keeps them, so that a new token costs one pass over the weights.
 *
 * All arrays are flat Float32Arrays, row by row: n positions of width d are n · d
 * numbers. Sums run in double precision, as all of JavaScript's arithmetic does.
 *
 * Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
 * Learners"; names of weights and settings are those of `transformers`.
 */

/** @typedef {import("./safetensors.js").Tensor} Tensor */

/**
 * @typedef {object} Config  The part of config.json that shapes the computation.
 * @property {number} vocab_size
 * @property {number} n_positions  The most tokens the model can see at once.
 * @property {number} n_embd  Width of a token's vector.
 * @property {number} n_layer
 * @property {number} n_head
 * @property {number | null} [n_inner]  Width inside a block's network; 4 n_embd if null.
 * @property {number} layer_norm_epsilon
 */

/** @typedef {{weight: Float32Array, bias: Float32Array}} Affine */

/**
 * @typedef {object} Block
 * @property {Affine} ln_1
 * @property {Affine} c_attn
 * @property {Affine} attn_proj
 * @property {Affine} ln_2
 * @property {Affine} c_fc
 * @property {Affine} mlp_proj
 */

/** What config.json may say where this module knows one way only. */
const SUPPORTED = {
  model_type: ["gpt2"],
  activation_function: ["gelu_new", "gelu_pytorch_tanh"], // two names of one function
  scale_attn_weights: [true],
  scale_attn_by_inverse_layer_idx: [false],
  add_cross_attention: [false],
  tie_word_embeddings: [true],
};

const SIZES = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"];

/** A GPT-2 language model with its weights. */
export class GPT2 {
  /** @type {Float32Array} (vocab_size, n_embd) */
  #tokens;
  /** @type {Float32Array} (n_positions, n_embd) */
  #positions;
  /** @type {Block[]} */
  #blocks;
  /** @type {Affine} */
  #finalNorm;

  /**
   * @param {Config} config  A config.json, parsed.
   * @param {Map<string, Tensor>} tensors  All weights, by name, and nothing else.
   * @throws {RangeError} Where the config asks for something unsupported, or a tensor
   *   is missing, is of another shape, or belongs to no part of the model.
   */
  constructor(config, tensors) {
    checkConfig(config);
    const { vocab_size, n_positions, n_embd, n_layer } = config;
    const weights = new Weights(tensors, "transformer.");
    this.config = config;
    this.#tokens = weights.take("wte.weight", [vocab_size, n_embd]);
    this.#positions = weights.take("wpe.weight", [n_positions, n_embd]);
    this.#blocks = Array.from({ length: n_layer }, (_, i) => readBlock(weights, config, i));
    this.#finalNorm = weights.norm("ln_f", n_embd);
    weights.demandAllTaken();
  }

  /**
   * An empty cache: no tokens seen yet.
   * @returns {KVCache}
   */
  start() {
    return new KVCache(this.config);
  }

  /**
   * The logits of the token after `ids`, which continue the tokens in the cache. A
   * long prompt may come in several calls: the numbers are the same to the last bit.
   *
   * @param {ArrayLike<number>} ids  One token or more, which enter the cache.
   * @param {KVCache} cache
   * @returns {Float32Array} (vocab_size,), a new array.
   * @throws {RangeError} Where an id is not in the vocabulary, or the tokens are more
   *   than the model can see; the cache is then as before.
   */
  forward(ids, cache) {
    this.#check(ids, cache);
    const x = this.#embed(ids, cache.length);
    this.#blocks.forEach((block, i) => this.#addBlock(x, block, cache, i));
    cache.advance(ids.length);
    const last = x.subarray(x.length - this.config.n_embd);
    const logits = new Float32Array(this.config.vocab_size);
    multiply(this.#tokens, last.length, this.#norm(last, this.#finalNorm), logits);
    return logits;
  }

  /**
   * @param {ArrayLike<number>} ids
   * @param {number} first  Position of the first of them.
   */
  #embed(ids, first) {
    const width = this.config.n_embd;
    const x = this.#positions.slice(first * width, (first + ids.length) * width);
    for (let t = 0; t < ids.length; t++) {
      const embedding = this.#tokens.subarray(ids[t] * width, (ids[t] + 1) * width);
      add(x.subarray(t * width, (t + 1) * width), embedding);
    }
    return x;
  }

  /**
   * Add to each vector what the block finds.
   * @param {Float32Array} x  (n, n_embd), changed in place.
   * @param {Block} block
   * @param {KVCache} cache
   * @param {number} layer
   */
  #addBlock(x, block, cache, layer) {
    const qkv = linear(this.#norm(x, block.ln_1), block.c_attn);
    add(x, linear(this.#attention(qkv, cache, layer), block.attn_proj));
    const inner = linear(this.#norm(x, block.ln_2), block.c_fc);
    add(x, linear(gelu(inner), block.mlp_proj));
  }

  /**
   * Each new position looks at itself and at all before it, in every head.
   * @param {Float32Array} qkv  (n, 3 n_embd): query, key and value side by side.
   * @param {KVCache} cache  Takes up the keys and values.
   * @param {number} layer
   * @returns {Float32Array} (n, n_embd)
   */
  #attention(qkv, cache, layer) {
    const { n_embd: width, n_head, n_positions } = this.config;
    const size = width / n_head;
    const [keys, values] = [cache.keys[layer], cache.values[layer]];
    const out = new Float32Array(qkv.length / 3);
    for (let at = 0, t = cache.length; at < out.length; at += width, t++) {
      const query = qkv.subarray(3 * at, 3 * at + width);
      keys.set(qkv.subarray(3 * at + width, 3 * at + 2 * width), t * width);
      for (let i = 0; i < width; i++) values[i * n_positions + t] = qkv[3 * at + 2 * width + i];
      for (let head = 0; head < width; head += size) {
        const weights = new Float32Array(t + 1);
        multiply(keys.subarray(head), width, query.subarray(head, head + size), weights);
        softmax(weights, 1 / Math.sqrt(size));
        const mean = out.subarray(at + head, at + head + size);
        multiply(values.subarray(head * n_positions), n_positions, weights, mean);
      }
    }
    return out;
  }

  /**
   * Layer normalisation of each vector: mean 0, variance 1, then scale and shift.
   * @param {Float32Array} x  (n, n_embd)
   * @param {Affine} norm
   */
  #norm(x, { weight, bias }) {
    const width = weight.length;
    const out = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += width) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += x[at + i];
      const mean = sum / width;
      let squares = 0;
      for (let i = 0; i < width; i++) squares += (x[at + i] - mean) ** 2;
      const scale = 1 / Math.sqrt(squares / width + this.config.layer_norm_epsilon);
      for (let i = 0; i < width; i++) {
        out[at + i] = (x[at + i] - mean) * scale * weight[i] + bias[i];
      }
    }
    return out;
  }

  /**
   * @param {ArrayLike<number>} ids
   * @param {KVCache} cache
   */
  #check(ids, cache) {
    const { vocab_size, n_positions } = this.config;
    if (cache?.config !== this.config) {
      throw new TypeError("cache must come from start() of the same model");
    }
    const length = cache.length + ids.length;
    if (!(ids.length >= 1 && length <= n_positions)) {
      throw new RangeError(
        `ids.length=${ids.length} after ${cache.length} cached tokens must be >= 1, ` +
          `and both together at most n_positions=${n_positions}`,
      );
    }
    for (let t = 0; t < ids.length; t++) {
      if (Number.isInteger(ids[t]) && ids[t] >= 0 && ids[t] < vocab_size) continue;
      throw new RangeError(`ids[${t}]=${ids[t]} must be an integer in 0..${vocab_size - 1}`);
    }
  }
}

/** The keys and values of the tokens seen so far, with room for n_positions tokens. */
export class KVCache {
  #length = 0;

  /** @param {Config} config  Of the model it belongs to. */
  constructor(config) {
    const { n_layer, n_positions, n_embd } = config;
    const empty = () => new Float32Array(n_positions * n_embd);
    this.config = config;
    /** Of each layer, (n_positions, n_embd). */
    this.keys = Array.from({ length: n_layer }, empty);
    /** Of each layer, (n_embd, n_positions): a head's mean then runs along rows. */
    this.values = Array.from({ length: n_layer }, empty);
  }

  /** How many tokens have been seen. */
  get length() {
    return this.#length;
  }

  /**
   * Forget the tokens from position `length` on, to go another way from there.
   * @throws {RangeError} Where fewer tokens have been seen.
   */
  set length(length) {
    if (!(Number.isInteger(length) && length >= 0 && length <= this.#length)) {
      throw new RangeError(`length=${length} must be an integer in 0..${this.#length}`);
    }
    this.#length = length;
  }

  /**
   * Count tokens whose keys and values have been written.
   * @param {number} count
   */
  advance(count) {
    this.#length += count;
  }

  /** A copy that goes its own way. */
  clone() {
    const copy = new KVCache(this.config);
    copy.advance(this.#length);
    for (let i = 0; i < this.config.n_layer; i++) {
      copy.keys[i].set(this.keys[i]);
      copy.values[i].set(this.values[i]);
    }
    return copy;
  }
}

/**
 * @param {Float32Array} x  (n, inputs)
 * @param {Affine} layer  Weight (outputs, inputs) and bias (outputs,).
 * @returns {Float32Array} (n, outputs)
 */
function linear(x, { weight, bias }) {
  const outputs = bias.length;
  const inputs = weight.length / outputs;
  const y = new Float32Array((x.length / inputs) * outputs);
  for (let at = 0, to = 0; at < x.length; at += inputs, to += outputs) {
    const row = y.subarray(to, to + outputs);
    multiply(weight, inputs, x.subarray(at, at + inputs), row);
    add(row, bias);
  }
  return y;
}

/**
 * The dot products of a vector with the rows of a matrix. Nearly all time goes by
 * here, so four rows go together: each number of the vector is read once for all
 * four, and no sum waits for another. That takes half the time of row by row.
 *
 * @param {Float32Array} matrix
 * @param {number} stride  How far apart its rows begin.
 * @param {Float32Array} x
 * @param {Float32Array} y  Takes the products, one for each row.
 */
function multiply(matrix, stride, x, y) {
  const together = y.length - (y.length % 4);
  for (let row = 0; row < together; row += 4) {
    const a = row * stride;
    const b = a + stride;
    const c = b + stride;
    const d = c + stride;
    let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0];
    for (let i = 0; i < x.length; i++) {
      const xi = x[i];
      sumA += matrix[a + i] * xi;
      sumB += matrix[b + i] * xi;
      sumC += matrix[c + i] * xi;
      sumD += matrix[d + i] * xi;
    }
    y[row] = sumA;
    y[row + 1] = sumB;
    y[row + 2] = sumC;
    y[row + 3] = sumD;
  }
  for (let row = together; row < y.length; row++) {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += matrix[row * stride + i] * x[i];
    y[row] = sum;
  }
}

/**
 * Turn scores into weights that sum to one: softmax(scale · scores).
 * @param {Float32Array} scores  Changed in place.
 * @param {number} scale
 */
function softmax(scores, scale) {
  let highest = -Infinity;
  for (let i = 0; i < scores.length; i++) highest = Math.max(highest, scores[i]);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    scores[i] = Math.exp(scale * (scores[i] - highest));
    sum += scores[i];
  }
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
}

/**
 * The network's bend, in GPT-2's approximation: x · P(a standard normal is below x).
 * @param {Float32Array} x  Changed in place.
 */
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    const inner = Math.sqrt(2 / Math.PI) * (x[i] + 0.044715 * x[i] ** 3);
    x[i] *= 0.5 * (1 + Math.tanh(inner));
  }
  return x;
}

/**
 * @param {Float32Array} x  Changed in place.
 * @param {Float32Array} y  As long.
 */
function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

/**
 * @param {Weights} weights
 * @param {Config} config
 * @param {number} layer
 * @returns {Block}
 */
function readBlock(weights, { n_embd, n_inner }, layer) {
  const inner = n_inner ?? 4 * n_embd;
  const name = `h.${layer}`;
  return {
    ln_1: weights.norm(`${name}.ln_1`, n_embd),
    c_attn: weights.affine(`${name}.attn.c_attn`, n_embd, 3 * n_embd),
    attn_proj: weights.affine(`${name}.attn.c_proj`, n_embd, n_embd),
    ln_2: weights.norm(`${name}.ln_2`, n_embd),
    c_fc: weights.affine(`${name}.mlp.c_fc`, n_embd, inner),
    mlp_proj: weights.affine(`${name}.mlp.c_proj`, inner, n_embd),
  };
}

/** The tensors of a file, each taken once and checked. */
class Weights {
  #tensors;
  #prefix;
  /** @type {Set<string>} */
  #taken = new Set();

  /**
   * @param {Map<string, Tensor>} tensors
   * @param {string} prefix  Of all names.
   */
  constructor(tensors, prefix) {
    this.#tensors = tensors;
    this.#prefix = prefix;
  }

  /**
   * @param {string} name
   * @param {number[]} shape
   */
  take(name, shape) {
    const full = this.#prefix + name;
    const tensor = this.#tensors.get(full);
    this.#taken.add(full);
    if (tensor && String(tensor.shape) === String(shape)) return tensor.data;
    const found = tensor ? `has shape [${tensor.shape}]` : "is missing";
    throw new RangeError(`tensor "${full}" ${found}; the config wants it with shape [${shape}]`);
  }

  /**
   * @param {string} name
   * @param {number} width
   * @returns {Affine}
   */
  norm(name, width) {
    const [weight, bias] = ["weight", "bias"].map((part) => this.take(`${name}.${part}`, [width]));
    return { weight, bias };
  }

  /**
   * The file has a column for each output; `linear` wants a row.
   * @param {string} name
   * @param {number} inputs
   * @param {number} outputs
   * @returns {Affine}
   */
  affine(name, inputs, outputs) {
    const columns = this.take(`${name}.weight`, [inputs, outputs]);
    const bias = this.take(`${name}.bias`, [outputs]);
    const weight = new Float32Array(columns.length);
    for (let o = 0; o < outputs; o++) {
      for (let i = 0; i < inputs; i++) weight[o * inputs + i] = columns[i * outputs + o];
    }
    return { weight, bias };
  }

  demandAllTaken() {
    const extra = [...this.#tensors.keys()].filter((name) => !this.#taken.has(name));
    if (extra.length) {
      throw new RangeError(`tensor "${extra[0]}" belongs to no part of the config's model`);
    }
  }
}

/** @param {Config & {[name: string]: any}} config */
function checkConfig(config) {
  for (const [name, allowed] of Object.entries(SUPPORTED)) {
    const value = config[name] ?? allowed[0];
    if (/** @type {any[]} */ (allowed).includes(value)) continue;
    throw new RangeError(`config.json has ${name}=${value}; it must be ${allowed.join(" or ")}`);
  }
  for (const name of SIZES) {
    if (Number.isInteger(config[name]) && config[name] >= 1) continue;
    throw new RangeError(`config.json has ${name}=${config[name]}; it must be an integer >= 1`);
  }
  if (config.n_embd % config.n_head !== 0) {
    throw new RangeError(
      `config.json has n_head=${config.n_head}; it must divide n_embd=${config.n_embd}`,
    );
  }
  if (!(config.layer_norm_epsilon > 0)) {
    throw new RangeError(
      `config.json has layer_norm_epsilon=${config.layer_norm_epsilon}; it must be > 0`,
    );
  }
}
