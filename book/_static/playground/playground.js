/** The playground: form, texts and panel, and what passes between them. */
import { html } from "../lib/figure.js";
import { Tokenizer } from "../lib/tokenizer.js";
import { Column } from "./column.js";
import { compare } from "./compare.js";
import { EXAMPLES } from "./examples.js";
import { explain } from "./explain.js";
import { CONTEXT, EOS, FILES } from "./facts.js";
import { field } from "./fields.js";
import { json } from "./files.js";
import { checkLengths, LengthError, PROMPT, SEED } from "./knobs.js";
import { decode, encode, isLink } from "./link.js";
import { Model } from "./model.js";
import { panel } from "./panel.js";
import { wordOf } from "./text.js";

const MEGABYTES = (FILES["model.safetensors"] / 1e6).toFixed(1);

const button = (text, onclick, attributes = {}) =>
  html("button", { type: "button", onclick, ...attributes }, text);

class Playground {
  #tokenizer;
  #model;
  /** @type {Promise<Model> | undefined} while it is loaded */
  #pending;
  #attempt = 0;
  #comparing = false;
  /** @type {{prompt: string, seed: number, columns: Column[]} | undefined} what is shown */
  #shown;
  /** @type {{column: Column, index: number} | undefined} the chosen token */
  #chosen;

  #prompt = html("textarea", {
    id: "pg-prompt",
    rows: 2,
    spellcheck: "false",
    "aria-describedby": "pg-prompt-error",
  });
  #promptError = html("p", { class: "pg-error", id: "pg-prompt-error" });
  #seed = field(SEED, "pg-seed", () => this.#edited());
  #columns = ["a", "b"].map(
    (key) =>
      new Column(key, {
        onedit: () => this.#edited(),
        onchoose: (index) => this.#choose(this.#columns["ab".indexOf(key)], index),
        onprogress: () => {
          this.#progressed();
          this.#address();
        },
        onturn: () => this.#close(),
        write: (column) => this.#carryOut(column),
      }),
  );
  #write = html("button", { class: "pg-primary" }, "Write");
  #stop = button("Stop", () => this.#model.stop(), { disabled: true });
  #compare = button("Compare two settings", () => this.#toggle());
  #copy = button("Copy link", () => this.#copyLink(), { disabled: true });
  #note = html("p", { class: "pg-note" }, `The first text loads the model: ${MEGABYTES} MB, once.`);
  #bar = html("progress", { id: "pg-progress", max: FILES["model.safetensors"], value: 0 });
  #loaded = html("label", { for: "pg-progress" });
  #loading = html("div", { class: "pg-loading", hidden: true }, this.#loaded, this.#bar);
  #alert = html("div", { class: "pg-alert", role: "alert" });
  #spoken = html("p", { class: "pg-unseen", role: "status" });
  #verdict = html("p", { class: "pg-verdict" });
  #panel = html("aside", { class: "pg-panel", "aria-label": "The chosen token" });

  /** @param {HTMLElement} place */
  constructor(place) {
    const [a, b] = this.#columns;
    this.form = html(
      "form",
      { class: "pg", novalidate: true, "aria-label": "Playground" },
      this.#examples(),
      this.#opening(),
      html("div", { class: "pg-settings" }, a.knobs.node, b.knobs.node),
      html("div", { class: "pg-actions" }, this.#write, this.#stop, this.#compare, this.#copy),
      this.#note,
      this.#loading,
      this.#alert,
      this.#spoken,
      this.#verdict,
      html("div", { class: "pg-result", hidden: true }, a.node, b.node, this.#panel),
    );
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#chosen && !event.isComposing) this.#close(true);
    });
    this.#prompt.value = PROMPT;
    this.#prompt.addEventListener("input", () => {
      this.#complainOfPrompt("");
      this.#edited();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit();
    });
    this.#layOut();
    this.#close();
    place.replaceChildren(this.form);
  }

  /** Fill the form from a link, say what was wrong with it, and write. @param {string} hash */
  open(hash) {
    const { request, problems } = decode(hash);
    this.#prompt.value = request.prompt;
    this.#seed.value = request.seed;
    request.columns.forEach(({ settings }, i) => (this.#columns[i].knobs.values = settings));
    this.#comparing = request.columns.length > 1;
    const [, b] = this.#columns;
    if (!this.#comparing && b.writing) this.#model.stop(b.key);
    this.#layOut();
    this.#edited();
    return this.#submit(
      request.columns.map(({ forced }) => forced),
      problems,
    );
  }

  #examples() {
    return html(
      "div",
      { class: "pg-examples", role: "group", "aria-label": "Examples" },
      html("span", { "aria-hidden": "true" }, "Try"),
      ...EXAMPLES.map(({ name, link }) => button(name, () => this.open(link))),
    );
  }

  #opening() {
    const fresh = () => {
      [this.#seed.value] = crypto.getRandomValues(new Uint32Array(1));
      this.#edited();
    };
    this.#seed.node.append(button("New seed", fresh));
    return html(
      "div",
      { class: "pg-opening" },
      html(
        "div",
        { class: "pg-knob" },
        html("label", { for: "pg-prompt" }, "Prompt"),
        this.#prompt,
        this.#promptError,
      ),
      this.#seed.node,
    );
  }

  /** The columns in use. */
  get #active() {
    return this.#columns.slice(0, this.#comparing ? 2 : 1);
  }

  /**
   * Write what the form asks for.
   * @param {Map<number, number>[]} forced the reader's choices, by column
   * @param {string[]} problems what was wrong with a link
   */
  async #submit(forced = [], problems = []) {
    const attempt = ++this.#attempt;
    this.#complain(problems.length ? ["This link was not followed in all:", ...problems] : []);
    this.#complainOfPrompt("");
    const columns = this.#active; // a comparison may begin or end while files come
    const settings = columns.map(({ knobs }) => knobs.read());
    const seed = this.#seed.read();
    if (seed === undefined) this.#seed.focus();
    if (seed === undefined || settings.includes(undefined)) return;
    const form = this.#texts();
    const text = this.#prompt.value;
    try {
      this.#tokenizer ??= new Tokenizer(await json("tokenizer.json"));
      const prompt = this.#tokenizer.encode(text);
      if (!this.#fits(prompt, columns, settings)) return;
      await this.#loadModel();
      if (attempt !== this.#attempt) return;
      this.#begin({ text, prompt, seed, columns, settings, form, forced });
    } catch (error) {
      this.#loading.hidden = true;
      const again = button("Try again", () => this.#submit(forced, problems));
      this.#complain([`The model could not be loaded: ${error.message}.`], again);
    }
  }

  #begin({ text, prompt, seed, columns, settings, form, forced }) {
    this.#close();
    const begun = columns.filter((column) => this.#active.includes(column));
    this.#shown = { prompt: text, seed, columns: begun };
    this.#copy.disabled = false;
    this.form.querySelector(".pg-result").hidden = false;
    this.#say("Writing.");
    const tokenizer = this.#tokenizer;
    begun.forEach((column, i) => {
      const written = { prompt, seed, settings: settings[i], tokenizer, form: form[i] };
      column.begin(written, forced[i] ?? new Map());
    });
    this.#edited();
  }

  /** Whether prompt and new tokens fit the model; says what does not. */
  #fits(prompt, columns, settings) {
    for (const [i, column] of columns.entries()) {
      try {
        checkLengths(prompt.length, settings[i], CONTEXT);
      } catch (error) {
        if (!(error instanceof LengthError)) throw error;
        if (error.field !== "prompt") column.knobs.complain(error.field, error.message);
        else {
          this.#complainOfPrompt(error.message);
          this.#prompt.focus();
        }
        return false;
      }
    }
    return true;
  }

  async #loadModel() {
    if (this.#model && !this.#model.broken) return;
    this.#progress(0);
    this.#loading.hidden = false;
    this.#say("Loading the model.");
    this.#model = undefined;
    this.#pending ??= Model.load((bytes) => this.#progress(bytes));
    try {
      this.#model = await this.#pending;
    } finally {
      this.#pending = undefined;
    }
    this.#loading.hidden = true;
    this.#note.hidden = true;
  }

  #progress(bytes) {
    this.#bar.value = bytes;
    this.#loaded.textContent = `Loading the model: ${(bytes / 1e6).toFixed(1)} of ${MEGABYTES} MB`;
  }

  /** Have a column's order carried out. @param {Column} column */
  async #carryOut(column) {
    const { way } = column;
    const already = way.steps.length;
    const begun = performance.now();
    const end = await this.#model.write(column.key, column.order(), (step) => column.take(way, step));
    const seconds = (performance.now() - begun) / 1000;
    column.finish(way, end, (way.steps.length - already) / seconds);
    if (this.#active.some(({ writing }) => writing)) return;
    const written = this.#active.filter(({ way }) => way);
    this.#say(written.map((each) => `${this.#nameOf(each)}${each.status}.`).join(" "));
  }

  /** A text has changed. */
  #progressed() {
    const writing = this.#active.some((column) => column.writing);
    if (this.#stop.disabled === writing) {
      if (!writing && document.activeElement === this.#stop) this.#write.focus();
      this.#stop.disabled = !writing;
    }
    this.#judge();
  }

  /** The address of what is shown. */
  get link() {
    if (!this.#shown) return "";
    const columns = this.#shown.columns.filter(({ way }) => way);
    const request = {
      ...this.#shown,
      columns: columns.map(({ written, way }) => ({ settings: written.settings, forced: way.forced })),
    };
    return `#${encode(request)}`;
  }

  /** Put the link of what is shown into the address bar. */
  #address() {
    if (this.#shown && this.link !== location.hash) history.replaceState(history.state, "", this.link);
  }

  /** Say where two texts part, and mark it. */
  #judge() {
    const [a, b] = this.#columns;
    const both = this.#comparing && a.way && b.way && this.#shown?.columns.length > 1;
    const { prefix, differs, same, places } = both ? compare(a.tokens, b.tokens) : {};
    for (const { text } of [a, b]) text.differs = differs ? prefix : Infinity;
    this.#verdict.hidden = !both;
    if (!both) return;
    const word = ({ tokens }) => `“${wordOf(this.#tokenizer, tokens[prefix])}”`;
    this.#verdict.textContent = differs
      ? `The first ${prefix} token${prefix === 1 ? " is" : "s are"} the same. Token ${prefix + 1} is ${word(a)} in A and ` +
        `${word(b)} in B. In all, ${same} of ${places} places hold the same token.`
      : `No difference in the ${places} tokens that both texts have.`;
  }

  /** @param {Column} column @param {number} index */
  #choose(column, index) {
    for (const other of this.#columns) if (other !== column && other.way) other.text.select(-1);
    this.#chosen = { column, index };
    const { settings, tokenizer } = column.written;
    const step = column.way.steps[index];
    this.#panel.replaceChildren(
      ...panel({
        step,
        explanation: explain(step, { ...settings, eos_token_id: EOS }, column.before(index)),
        title: this.#nameOf(column),
        word: (id) => wordOf(tokenizer, id),
        sampled: settings.do_sample,
        onclose: () => this.#close(true),
        onbranch: (token) => {
          column.branch(index, token);
          column.text.choose(index);
        },
      }),
    );
    this.form.classList.add("pg-open");
  }

  /** Close the panel. @param {boolean} [back] to the token that it showed */
  #close(back = false) {
    const { column, index } = this.#chosen ?? {};
    this.#chosen = undefined;
    this.form.classList.remove("pg-open");
    this.#panel.replaceChildren(
      html("p", { class: "pg-hint" }, "Choose a token of the text, with the pointer or with Tab and the arrow keys, to see where it came from."),
    );
    if (back) column.text.focus(index);
    column?.text.select(-1);
  }

  /** Say in each text whether the form still asks for it. */
  #edited() {
    const form = this.#texts();
    this.#columns.forEach((column, i) => {
      if (column.written) column.changed = form[i] !== column.written.form;
    });
  }

  /** What is typed, for each column. */
  #texts() {
    return this.#columns.map(({ knobs }) =>
      JSON.stringify([this.#prompt.value, this.#seed.text, knobs.texts]),
    );
  }

  /** Begin or end a comparison. */
  #toggle() {
    const [a, b] = this.#columns;
    this.#comparing = !this.#comparing;
    if (this.#comparing) b.knobs.copy(a.knobs);
    else if (b.writing) this.#model.stop(b.key);
    if (this.#shown && !this.#comparing) {
      this.#shown.columns = [a];
      this.#address();
    }
    this.#close();
    this.#layOut();
    this.#edited();
    if (this.#comparing) b.knobs.focus();
  }

  #layOut() {
    const [a, b] = this.#columns;
    this.form.classList.toggle("pg-two", this.#comparing);
    this.#compare.textContent = this.#comparing ? "One setting again" : "Compare two settings";
    a.knobs.legend.textContent = this.#comparing ? "Settings A" : "Settings";
    b.knobs.legend.textContent = "Settings B";
    b.knobs.node.hidden = !this.#comparing;
    b.node.hidden = !this.#comparing;
    for (const column of [a, b]) column.title.textContent = this.#nameOf(column).replace(": ", "");
    a.title.hidden = !this.#comparing;
    for (const column of [a, b]) {
      const name = this.#comparing ? `Text ${column.key.toUpperCase()}` : "Text";
      column.node.setAttribute("aria-label", name);
    }
    this.#progressed();
  }

  /** @param {Column} column */
  #nameOf(column) {
    return this.#comparing ? `Text ${column.key.toUpperCase()}: ` : "";
  }

  async #copyLink() {
    try {
      await navigator.clipboard.writeText(new URL(this.link, location.href).href);
      this.#say("Link copied.");
      this.#copy.textContent = "Link copied";
      setTimeout(() => (this.#copy.textContent = "Copy link"), 2000);
    } catch {
      this.#complain(["This browser does not let a page copy. The link stands in the address bar."]);
    }
  }

  #complainOfPrompt(message) {
    this.#promptError.textContent = message;
    this.#prompt.setAttribute("aria-invalid", message !== "");
  }

  /** @param {string[]} lines @param {Node[]} more */
  #complain(lines, ...more) {
    this.#alert.replaceChildren(...lines.map((line) => html("p", {}, line)), ...more);
  }

  /** For those who listen: never every token. @param {string} text */
  #say(text) {
    this.#spoken.textContent = text;
  }
}

const playground = new Playground(document.getElementById("the-playground"));
function follow() {
  const { hash } = location;
  if (isLink(hash) && hash !== playground.link) playground.open(hash);
}
addEventListener("hashchange", follow);
follow();
