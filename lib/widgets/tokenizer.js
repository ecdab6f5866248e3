/**
 * Byte-level byte-pair encoding, as GPT-2 has it, read from a tokenizer.json.
 *
 * A text is cut into words by a regular expression and each word into its UTF-8
 * bytes. Then the two neighbours that training merged first are merged, again and
 * again, until no two neighbours form a token. So every text has tokens, and no
 * token is unknown.
 *
 * The file stands for each byte by one printable character: "Ġ" is the space.
 *
 * Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
 * Learners"; the file format is that of the `tokenizers` library.
 */

/**
 * GPT-2's words: contractions; letters, digits or other signs, each with the space
 * before them; and white space, the last of which is left to the word that follows.
 * `\s` would not do: JavaScript counts U+FEFF and leaves U+0085 out. What is a letter
 * or a digit is for the browser's version of Unicode to say: about one that is newer
 * than either program, this one and the Python one may disagree.
 */
const WORDS = new RegExp(
  [
    "'(?:s|t|re|ve|m|ll|d)",
    " ?\\p{L}+",
    " ?\\p{N}+",
    " ?[^\\p{White_Space}\\p{L}\\p{N}]+",
    "\\p{White_Space}+(?!\\P{White_Space})",
    "\\p{White_Space}+",
  ].join("|"),
  "gu",
);

/** What this module does, by its place in tokenizer.json; all else is refused. */
const SUPPORTED = {
  truncation: null,
  padding: null,
  normalizer: null,
  "pre_tokenizer.type": "ByteLevel",
  "pre_tokenizer.add_prefix_space": false,
  "pre_tokenizer.use_regex": true,
  "decoder.type": "ByteLevel",
  "model.type": "BPE",
  "model.dropout": null,
  "model.unk_token": null,
  "model.continuing_subword_prefix": null,
  "model.end_of_word_suffix": null,
  "model.fuse_unk": false,
  "model.byte_fallback": false,
  "model.ignore_merges": false,
};

const SUPPORTED_IN_ADDED = {
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
};

/** A tokenizer's two directions: text to token ids and back. */
export class Tokenizer {
  /** @type {Uint8Array[]} Of each id, the bytes it stands for. */
  #bytes;
  /** @type {Map<string, number>} Special tokens, which are never cut. */
  #special;
  /** @type {RegExp | null} Cuts a text around them, and keeps them. */
  #specialPattern;
  /** @type {number[]} Of each byte, the id of its own token. */
  #byteIds;
  /** @type {Map<number, {rank: number, id: number}>} By pair of ids. */
  #merges;

  /**
   * @param {any} json  A tokenizer.json, parsed.
   * @throws {RangeError} Where the file asks for something else than byte-level
   *   BPE; the message names it.
   */
  constructor(json) {
    refuseUnsupported(json);
    const vocab = new Map(Object.entries(json.model.vocab));
    this.#special = new Map(
      json.added_tokens.map((/** @type {any} */ token) => [token.content, token.id]),
    );
    this.#specialPattern = patternOf([...this.#special.keys()]);
    this.#bytes = bytesOfTokens(vocab, this.#special);
    this.#byteIds = BYTE_CHARACTERS.map((character) => idOf(vocab, character));
    this.#merges = this.#readMerges(json.model.merges, vocab);
  }

  /** How many tokens there are: ids go from 0 to one less. */
  get vocab_size() {
    return this.#bytes.length;
  }

  /**
   * The token ids of a text.
   *
   * A special token's text stands for that token, as in `transformers`. Half a
   * surrogate pair, which is no character, counts as U+FFFD.
   *
   * @param {string} text
   * @returns {number[]}
   */
  encode(text) {
    if (typeof text !== "string") throw new TypeError(`text=${text} must be a string`);
    const parts = this.#specialPattern ? text.split(this.#specialPattern) : [text];
    return parts.flatMap((part) => this.#special.get(part) ?? this.#encodeOrdinary(part));
  }

  /**
   * The text of token ids; bytes that are no UTF-8 become U+FFFD.
   *
   * @param {Iterable<number>} ids
   * @param {{skip_special_tokens?: boolean}} [options]
   * @returns {string}
   * @throws {RangeError} Where an id is not in the vocabulary.
   */
  decode(ids, options) {
    const stream = this.stream([], options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.end();
  }

  /**
   * Decode token by token.
   *
   * @param {Iterable<number>} [context]  Tokens that come before and are not shown.
   * @param {{skip_special_tokens?: boolean}} [options]
   * @returns {TextStream}
   */
  stream(context = [], { skip_special_tokens = false } = {}) {
    const stream = new TextStream(this, skip_special_tokens);
    for (const id of context) stream.push(id);
    return stream;
  }

  /**
   * The bytes that a token stands for.
   *
   * @param {number} id
   * @throws {RangeError} Where the id is not in the vocabulary.
   */
  bytes(id) {
    const bytes = this.#bytes[id];
    if (bytes) return bytes;
    throw new RangeError(
      `token id ${id} must be an integer in 0..${this.#bytes.length - 1}`,
    );
  }

  /** @param {number} id */
  isSpecial(id) {
    return [...this.#special.values()].includes(id);
  }

  /**
   * A text without special tokens.
   * @param {string} text
   * @returns {number[]}
   */
  #encodeOrdinary(text) {
    const words = text.match(WORDS) ?? [];
    return words.flatMap((word) => this.#merge(utf8.encode(word)));
  }

  /**
   * Merge a word's bytes to tokens: always the pair of lowest rank, the leftmost
   * of several.
   * @param {Uint8Array} bytes
   */
  #merge(bytes) {
    const ids = Array.from(bytes, (byte) => this.#byteIds[byte]);
    const rank = (/** @type {number} */ i) =>
      this.#merges.get(this.#pair(ids[i], ids[i + 1]))?.rank ?? Infinity;
    const ranks = ids.slice(1).map((_, i) => rank(i)); // of the pair (i, i + 1)
    for (;;) {
      const at = indexOfLowest(ranks);
      if (at === -1) return ids;
      const merged = this.#merges.get(this.#pair(ids[at], ids[at + 1]));
      ids.splice(at, 2, /** @type {{id: number}} */ (merged).id);
      ranks.splice(at, 1);
      if (at > 0) ranks[at - 1] = rank(at - 1);
      if (at < ranks.length) ranks[at] = rank(at);
    }
  }

  /**
   * @param {[string, string][]} merges  In the order of their ranks.
   * @param {Map<string, number>} vocab
   */
  #readMerges(merges, vocab) {
    const table = new Map();
    merges.forEach(([left, right], rank) => {
      const pair = this.#pair(idOf(vocab, left), idOf(vocab, right));
      table.set(pair, { rank, id: idOf(vocab, left + right) });
    });
    return table;
  }

  /**
   * One number for two ids.
   * @param {number} left
   * @param {number} right
   */
  #pair(left, right) {
    return left * this.#bytes.length + right;
  }
}

/** A text that grows by tokens, and is shown in whole characters only. */
export class TextStream {
  #tokenizer;
  #skipSpecial;
  // A byte order mark at the beginning is part of the text.
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /**
   * @param {Tokenizer} tokenizer
   * @param {boolean} skipSpecial
   */
  constructor(tokenizer, skipSpecial) {
    this.#tokenizer = tokenizer;
    this.#skipSpecial = skipSpecial;
  }

  /**
   * Add a token.
   * @param {number} id
   * @returns {string} The characters that are now complete, perhaps none.
   * @throws {RangeError} Where the id is not in the vocabulary.
   */
  push(id) {
    const bytes = this.#tokenizer.bytes(id);
    if (this.#skipSpecial && this.#tokenizer.isSpecial(id)) return "";
    return this.#decoder.decode(bytes, { stream: true });
  }

  /**
   * End the text.
   * @returns {string} U+FFFD where it ends inside a character, otherwise nothing.
   */
  end() {
    return this.#decoder.decode();
  }
}

const utf8 = new TextEncoder();

/** Of each byte, the character that stands for it in tokenizer.json. */
const BYTE_CHARACTERS = byteCharacters();
const BYTES = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));

/** Printable bytes of Latin-1 stand for themselves, the others for U+0100 and on. */
function byteCharacters() {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
}

/**
 * @param {Map<string, number>} vocab
 * @param {Map<string, number>} special
 */
function bytesOfTokens(vocab, special) {
  /** @type {Uint8Array[]} */
  const table = [];
  for (const [token, id] of vocab) table[id] = bytesOfToken(token);
  for (const [token, id] of special) table[id] = utf8.encode(token);
  for (let id = 0; id < table.length; id++) {
    if (table[id]) continue;
    throw new RangeError(
      `model.vocab has no token ${id}; it must have all of 0..${table.length - 1}`,
    );
  }
  return table;
}

/** @param {string} token */
function bytesOfToken(token) {
  return Uint8Array.from(token, (character) => {
    const byte = BYTES.get(character);
    if (byte !== undefined) return byte;
    throw new RangeError(
      `model.vocab has the token "${token}"; "${character}" must stand for a byte`,
    );
  });
}

/**
 * @param {Map<string, number>} vocab
 * @param {string} token
 */
function idOf(vocab, token) {
  const id = vocab.get(token);
  if (id !== undefined) return id;
  throw new RangeError(`model.vocab must have the token "${token}"`);
}

/**
 * The place of the lowest number, the first of several; -1 where all are infinite.
 * @param {number[]} numbers
 */
function indexOfLowest(numbers) {
  let at = -1;
  let lowest = Infinity;
  for (let i = 0; i < numbers.length; i++) {
    if (numbers[i] < lowest) lowest = numbers[(at = i)];
  }
  return at;
}

/**
 * Splits a text at its special tokens, the longest where several begin, and keeps
 * them; null where there are none.
 * @param {string[]} tokens
 */
function patternOf(tokens) {
  if (!tokens.length) return null;
  const longestFirst = [...tokens].sort((a, b) => b.length - a.length);
  const escaped = longestFirst.map((token) => token.replace(/[^\w\s]/g, "\\$&"));
  return new RegExp(`(${escaped.join("|")})`);
}

/** @param {any} json */
function refuseUnsupported(json) {
  for (const [path, only] of Object.entries(SUPPORTED)) {
    const value = path.split(".").reduce((part, key) => part?.[key], json);
    demand(path, value, only);
  }
  for (const token of json.added_tokens) {
    for (const [key, only] of Object.entries(SUPPORTED_IN_ADDED)) {
      demand(`added_tokens "${token.content}".${key}`, token[key], only);
    }
  }
  if (json.post_processor !== null && !addsNothing(json.post_processor)) {
    demand("post_processor", json.post_processor, null);
  }
}

/**
 * Whether a post-processor leaves a text's tokens as they are.
 * @param {any} processor
 */
function addsNothing(processor) {
  const bare = [{ Sequence: { id: "A", type_id: 0 } }];
  return JSON.stringify(processor.single) === JSON.stringify(bare);
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {unknown} only
 */
function demand(name, value, only) {
  if (value === only) return;
  throw new RangeError(
    `tokenizer.json has ${name}=${JSON.stringify(value)}; ` +
      `it must be ${JSON.stringify(only)}, nothing else is supported`,
  );
}
