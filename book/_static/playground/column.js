/**
 * One text with its settings, and the ways that were taken through it.
 *
 * @typedef {Object} Way one course of the text
 * @property {Map<number, number>} forced the reader's choices, token by step
 * @property {import("./engine.js").Step[]} steps
 * @property {{reason: string, message?: string}} [end] none while it is written
 * @property {number} [speed] tokens a second, of the last time it was written on
 */
import { html } from "../lib/figure.js";
import { EOS } from "./facts.js";
import { Knobs } from "./fields.js";
import { TokenText, wordOf } from "./text.js";

export class Column {
  /** @type {Way[]} */
  #ways = [];
  #at = 0;
  #written;
  #actions;
  #branches = html("div", { class: "pg-branches", role: "group", "aria-label": "Ways through the text" });
  #status = html("p", { class: "pg-status" });
  #changed = html("p", { class: "pg-changed" });
  #onward = html("button", { type: "button", onclick: () => this.go() }, "Write on");

  /**
   * @param {string} key "a" or "b"
   * @param {Object} actions
   * @param {() => void} actions.onedit a knob was moved
   * @param {(index: number) => void} actions.onchoose a token was chosen
   * @param {() => void} actions.onprogress the text is another
   * @param {() => void} actions.onturn another way is shown
   * @param {(column: Column) => Promise<void>} actions.write have the order carried out
   */
  constructor(key, actions) {
    this.key = key;
    this.#actions = actions;
    this.knobs = new Knobs(key, actions.onedit);
    this.text = new TokenText(actions.onchoose);
    this.title = html("h3", { class: "pg-title" });
    this.#onward.hidden = true;
    this.node = html(
      "section",
      { class: "pg-column", "aria-label": "Text" },
      this.title,
      this.#changed,
      this.text.node,
      html("div", { class: "pg-foot" }, this.#status, this.#onward),
      this.#branches,
    );
  }

  /** What was last asked for: prompt ids, seed, settings, tokenizer. */
  get written() {
    return this.#written;
  }

  /** @returns {Way} */
  get way() {
    return this.#ways[this.#at];
  }

  /** The new tokens. */
  get tokens() {
    return this.way ? this.way.steps.map(({ token }) => token) : [];
  }

  /** Whether any way is written on, shown or not. */
  get writing() {
    return this.#ways.some(({ end }) => end === undefined);
  }

  /** The ids before a step, prompt included. @param {number} index */
  before(index) {
    return [...this.#written.prompt, ...this.tokens.slice(0, index)];
  }

  /** Begin anew. @param {object} written @param {Map<number, number>} forced */
  begin(written, forced) {
    this.#written = written;
    this.#ways = [{ forced: new Map(), steps: [], end: { reason: "unwritten" } }];
    if (forced.size) this.#ways.push({ forced, steps: [] });
    return this.#enter(this.#ways.length - 1, true);
  }

  /** Write on where the text stands. */
  go() {
    return this.#enter(this.#at, true);
  }

  /** Take another token at a step, and write on from there. */
  branch(index, token) {
    const { forced, steps } = this.way;
    const kept = [...forced].filter(([step]) => step < index);
    const there = steps[index];
    const choices = there.chosen === token ? kept : [...kept, [index, token]];
    this.#ways.push({
      forced: new Map(choices),
      steps: [...steps.slice(0, index), { ...there, token }],
    });
    return this.#enter(this.#ways.length - 1, true);
  }

  /** The order that continues the text. @returns {import("./engine.js").Order} */
  order() {
    const { prompt, settings, seed } = this.#written;
    return {
      prompt,
      seed,
      settings: { ...settings, eos_token_id: EOS },
      max_new_tokens: settings.max_new_tokens,
      tokens: this.tokens,
      forced: this.way.forced,
    };
  }

  /** Take a step up. @param {Way} way @param {import("./engine.js").Step} step */
  take(way, step) {
    way.steps.push(step);
    if (way === this.way) this.#show(step);
  }

  /** The text has come to an end, or a halt. @param {Way} way */
  finish(way, end, speed) {
    Object.assign(way, { end, speed });
    if (way === this.way) this.#rest();
    else this.#actions.onprogress();
  }

  /** How far the text is, or how it ended, in words. */
  get status() {
    const { end, steps, speed } = this.way;
    const count = `${steps.length} new token${steps.length === 1 ? "" : "s"}`;
    if (!end) return `Writing … ${count}`;
    const pace = speed ? `, ${Math.round(speed)} a second` : "";
    return {
      unwritten: "Not written yet",
      eos: `The model ended the text: ${count}${pace}`,
      length: `max_new_tokens reached: ${count}${pace}`,
      stopped: `Stopped: ${count}${pace}`,
      failed: `Writing failed after ${count}: ${end.message}`,
    }[end.reason];
  }

  /** Say that the knobs have moved since. @param {boolean} changed */
  set changed(changed) {
    this.#changed.textContent = changed ? "Written with other settings than those above." : "";
  }

  /** Show one way; write it where it is to be written. */
  #enter(index, write) {
    this.#at = index;
    if (write) delete this.way.end;
    this.text.begin(this.#written.tokenizer, this.#written.prompt);
    for (const step of this.way.steps) this.#show(step);
    this.#drawBranches();
    if (!write) return this.#rest();
    this.#status.textContent = "Reading the prompt …";
    this.#onward.hidden = true;
    this.#actions.onprogress();
    return this.#actions.write(this);
  }

  /** Show another way, with the focus where it was: on the way's button. */
  #turn(index) {
    this.#actions.onturn();
    this.#enter(index, false);
    this.#branches.children[index].focus();
  }

  #show({ token, chosen }) {
    this.text.push(token, token !== chosen);
    this.#status.textContent = this.status;
    this.#actions.onprogress();
  }

  #rest() {
    if (this.way.end) this.text.rest();
    this.#status.textContent = this.status;
    this.#onward.hidden = !["stopped", "unwritten", "failed"].includes(this.way.end?.reason);
    this.#actions.onprogress();
  }

  #drawBranches() {
    this.#branches.replaceChildren(
      ...(this.#ways.length > 1 ? this.#ways : []).map((way, i) =>
        html(
          "button",
          {
            type: "button",
            "aria-pressed": String(i === this.#at),
            onclick: () => this.#turn(i),
          },
          this.#nameOf(way),
        ),
      ),
    );
  }

  /** @param {Way} way */
  #nameOf({ forced }) {
    if (!forced.size) return "Original";
    const words = [...forced].map(
      ([step, token]) => `${step + 1}: ${wordOf(this.#written.tokenizer, token)}`,
    );
    return `With token ${words.join(", ")}`;
  }
}
