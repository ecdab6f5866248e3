/** The form's fields: a knob with its explanation and its error, and a set of knobs. */
import { html } from "../lib/figure.js";
import { KNOBS, parse } from "./knobs.js";

/**
 * A knob to type into, to step with the arrow keys, or to press.
 * @param {import("./knobs.js").Knob} knob
 * @param {string} id
 * @param {() => void} onchange
 */
export function field(knob, id, onchange) {
  const error = html("p", { class: "pg-error", id: `${id}-error` });
  const input = html("input", {
    id,
    name: id,
    type: knob.kind === "switch" ? "checkbox" : "text",
    inputmode: { number: "decimal", integer: "numeric" }[knob.kind],
    autocomplete: "off",
    "aria-describedby": `${id}-help ${id}-error`,
  });
  const node = html(
    "div",
    { class: `pg-knob pg-${knob.kind}` },
    html("label", { for: id }, html("code", {}, ...breakable(knob.name))),
    knob.kind === "switch" ? input : stepper(knob, input),
    html("p", { class: "pg-help", id: `${id}-help` }, knob.says, " ", chapterLink(knob.chapter)),
    error,
  );
  input.addEventListener("input", () => {
    self.complain("");
    onchange();
  });
  const self = {
    node,
    /** What is typed in, as a link writes it. */
    get text() {
      return knob.kind === "switch" ? String(input.checked) : input.value;
    },
    set text(text) {
      if (knob.kind === "switch") input.checked = text === "true";
      else input.value = text;
      self.complain("");
    },
    set value(value) {
      self.text = String(value);
    },
    /** The value, or undefined after saying what is wrong with it. */
    read() {
      try {
        const value = parse(knob, self.text);
        self.complain("");
        return value;
      } catch (problem) {
        self.complain(problem.message);
        return undefined;
      }
    },
    complain(message) {
      error.textContent = message;
      input.setAttribute("aria-invalid", message !== "");
    },
    focus: () => input.focus(),
  };
  self.value = knob.value;
  return self;
}

/** @param {import("./knobs.js").Knob} knob @param {HTMLInputElement} input */
function stepper(knob, input) {
  const move = (direction) => {
    const now = Number(input.value) || 0;
    const next = Number((now + direction * knob.step).toFixed(10));
    const least = knob.above === undefined ? knob.least : knob.step;
    input.value = Math.min(Math.max(next, least), knob.most ?? Infinity);
    input.dispatchEvent(new Event("input"));
  };
  input.addEventListener("keydown", (event) => {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    move(direction);
  });
  // For pointers alone: the arrow keys do the same.
  const press = (sign, word, direction) =>
    html(
      "button",
      { type: "button", tabindex: -1, "aria-label": `${knob.name} ${word}`, onclick: () => move(direction) },
      sign,
    );
  return html(
    "span",
    { class: "pg-stepper" },
    press("−", "lower", -1),
    input,
    press("+", "higher", 1),
  );
}

/** A name that may go on in a new line after an underscore. @param {string} name */
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, i) => (i ? [html("wbr"), part] : [part]));
}

/** @param {string} chapter */
function chapterLink(chapter) {
  const href = new URL(`../../notebooks/${chapter}.html`, import.meta.url).href;
  return html("a", { href }, `Chapter ${Number(chapter.slice(0, 2))}`);
}

/** All knobs of one text. */
export class Knobs {
  #fields;

  /** @param {string} key distinguishes this set from another @param {() => void} onchange */
  constructor(key, onchange) {
    const changed = () => {
      this.#dim();
      onchange();
    };
    this.#fields = new Map(
      KNOBS.map((knob) => [knob.name, field(knob, `pg-${key}-${knob.name}`, changed)]),
    );
    this.legend = html("legend", {}, "Settings");
    this.node = html(
      "fieldset",
      { class: "pg-knobs" },
      this.legend,
      html("div", { class: "pg-grid" }, ...[...this.#fields.values()].map(({ node }) => node)),
    );
    this.#dim();
  }

  /** All values by name, or undefined after saying what is wrong. */
  read() {
    const values = [...this.#fields].map(([name, field]) => [name, field.read()]);
    const wrong = values.find(([, value]) => value === undefined);
    if (!wrong) return Object.fromEntries(values);
    this.#fields.get(wrong[0]).focus();
    return undefined;
  }

  /** The values as they are typed. */
  get texts() {
    return Object.fromEntries([...this.#fields].map(([name, { text }]) => [name, text]));
  }

  /** @param {Record<string, any>} settings */
  set values(settings) {
    for (const [name, field] of this.#fields) field.value = settings[name];
    this.#dim();
  }

  /** Take over what is typed into another set. @param {Knobs} other */
  copy(other) {
    for (const [name, field] of this.#fields) field.text = other.texts[name];
    this.#dim();
  }

  /** @param {string} name @param {string} message */
  complain(name, message) {
    this.#fields.get(name).complain(message);
    this.#fields.get(name).focus();
  }

  focus() {
    this.#fields.get("do_sample").focus();
  }

  /** Show which knobs have no effect without sampling. */
  #dim() {
    const sampling = this.#fields.get("do_sample").text === "true";
    for (const { name, sampling: needs } of KNOBS) {
      this.#fields.get(name).node.classList.toggle("pg-idle", Boolean(needs) && !sampling);
    }
  }
}
