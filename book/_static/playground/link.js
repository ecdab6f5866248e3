/**
 * Everything that decides a text, as the part of an address after "#".
 *
 *     prompt=Once+upon&seed=1&do_sample=true&…&forced=12.345_30.17&b.top_p=1&…
 *
 * `forced` holds the reader's own choices, as step.token; the settings of the text to
 * compare with have the prefix "b.".
 *
 * @typedef {Object} Column
 * @property {Record<string, any>} settings
 * @property {Map<number, number>} forced token by step
 *
 * @typedef {Object} Request
 * @property {string} prompt
 * @property {number} seed
 * @property {Column[]} columns one, or two to compare
 */
import { VERSION, VOCABULARY } from "./facts.js";
import { defaults, KNOBS, parse, PROMPT, SEED } from "./knobs.js";

const PREFIXES = ["", "b."];
const KNOWN = new Set([
  "prompt",
  "seed",
  "model",
  ...PREFIXES.flatMap((prefix) => [...KNOBS.map(({ name }) => prefix + name), prefix + "forced"]),
]);

/** @param {Request} request */
export function encode({ prompt, seed, columns }) {
  const fields = new URLSearchParams({ prompt, seed: String(seed) });
  columns.forEach(({ settings, forced }, i) => {
    for (const { name } of KNOBS) fields.set(PREFIXES[i] + name, String(settings[name]));
    const choices = [...forced].map(([step, token]) => `${step}.${token}`);
    if (choices.length) fields.set(PREFIXES[i] + "forced", choices.join("_"));
  });
  fields.set("model", VERSION);
  return fields.toString();
}

/** Whether an address's hash is one of ours, and no heading's. @param {string} hash */
export function isLink(hash) {
  return hash.includes("=");
}

/**
 * Read a link. What is unknown or out of range is left out, and told.
 * @param {string} hash
 * @returns {{request: Request, problems: string[]}}
 */
export function decode(hash) {
  const problems = [];
  const fields = new Map();
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!KNOWN.has(name)) problems.push(`${name} is no setting and was left out`);
    else if (fields.has(name)) problems.push(`${name} is there twice; the first counts`);
    else fields.set(name, text);
  }
  const read = (knob, name, otherwise) => {
    if (!fields.has(name)) return otherwise;
    try {
      return parse({ ...knob, name }, fields.get(name));
    } catch (error) {
      problems.push(`${error.message}; ${otherwise} took its place`);
      return otherwise;
    }
  };
  const column = (prefix, otherwise) => ({
    settings: Object.fromEntries(
      KNOBS.map((knob) => [knob.name, read(knob, prefix + knob.name, otherwise[knob.name])]),
    ),
    forced: readForced(prefix + "forced", fields.get(prefix + "forced"), problems),
  });
  if (fields.has("model") && fields.get("model") !== VERSION) {
    problems.push("the link was made with another version of the model: the text may differ");
  }
  const columns = [column("", defaults())];
  if ([...fields.keys()].some((name) => name.startsWith(PREFIXES[1]))) {
    columns.push(column(PREFIXES[1], columns[0].settings));
  }
  return {
    request: {
      prompt: fields.get("prompt") ?? PROMPT,
      seed: read(SEED, "seed", SEED.value),
      columns,
    },
    problems,
  };
}

/**
 * @param {string} name
 * @param {string | undefined} text
 * @param {string[]} problems
 * @returns {Map<number, number>}
 */
function readForced(name, text, problems) {
  const forced = new Map();
  for (const choice of text ? text.split("_") : []) {
    const [, step, token] = /^(\d{1,6})\.(\d{1,9})$/.exec(choice) ?? [];
    if (step === undefined || Number(token) >= VOCABULARY) {
      problems.push(
        `${name}=${choice} must be step.token, with a token from 0 to ${VOCABULARY - 1}; ` +
          "it was left out",
      );
    } else {
      forced.set(Number(step), Number(token));
    }
  }
  return new Map([...forced].sort(([a], [b]) => a - b));
}
