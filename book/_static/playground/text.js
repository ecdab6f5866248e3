/**
 * A text as a list of tokens, any of which can be chosen.
 *
 * The new tokens are the options of a listbox: one stop of the Tab key, then the arrow
 * keys. The text in one piece stands beside it, unseen, for those who listen.
 */
import { html, visible } from "../lib/figure.js";
import { EOS } from "./facts.js";

export class TokenText {
  #onchoose;
  #tokenizer;
  #stream;
  #ids = [];
  #options = [];
  #differs = Infinity;
  #list = html("span", { class: "pg-tokens", role: "listbox", "aria-label": "New tokens" });
  #prompt = html("span", { class: "pg-prompt" });
  #whole = html("p", { class: "pg-unseen pg-whole" });

  /** @param {(index: number) => void} onchoose */
  constructor(onchoose) {
    this.#onchoose = onchoose;
    this.#list.addEventListener("click", ({ target }) => {
      const index = this.#options.indexOf(target.closest('[role="option"]'));
      if (index >= 0) this.choose(index);
    });
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    this.node = html(
      "div",
      { class: "pg-text" },
      this.#whole,
      html("p", { class: "pg-flow" }, this.#prompt, this.#list),
    );
    this.#list.hidden = true;
  }

  /** Begin a text. @param {import("../lib/tokenizer.js").Tokenizer} tokenizer @param {number[]} prompt */
  begin(tokenizer, prompt) {
    this.#tokenizer = tokenizer;
    this.#ids = [...prompt];
    this.#options = [];
    this.#differs = Infinity;
    this.#stream = tokenizer.stream(prompt, { skip_special_tokens: true });
    this.#prompt.textContent = this.whole;
    this.#whole.textContent = "";
    this.#list.replaceChildren();
    this.#list.hidden = true;
  }

  /** Add a token; `forced` where the reader chose it. */
  push(token, forced) {
    const index = this.#options.length;
    const piece = this.#stream.push(token);
    const option = html(
      "span",
      {
        class: EOS.includes(token) ? "pg-end" : piece === "" ? "pg-part" : "",
        role: "option",
        tabindex: index === 0 ? 0 : -1,
        "aria-selected": "false",
      },
      EOS.includes(token) ? "end of text" : piece,
    );
    if (piece.trim() === "") option.setAttribute("aria-label", spoken(this.#tokenizer, token));
    option.classList.toggle("pg-forced", forced);
    this.#ids.push(token);
    this.#options.push(option);
    this.#mark(index);
    this.#list.hidden = false;
    this.#list.append(option);
  }

  /** Nothing comes for now: offer the text in one piece. */
  rest() {
    this.#whole.textContent = this.whole;
  }

  /** The text, as `lib.complete` returns it. */
  get whole() {
    return this.#tokenizer.decode(this.#ids, { skip_special_tokens: true });
  }

  /** Mark the tokens from the first difference on. @param {number} index or Infinity */
  set differs(index) {
    if (index === this.#differs) return;
    this.#differs = index;
    this.#options.forEach((_, i) => this.#mark(i));
  }

  /** @param {number} index */
  focus(index) {
    this.#options[index]?.focus({ preventScroll: true });
    this.#options[index]?.scrollIntoView({ block: "nearest" });
  }

  /** Choose a token. @param {number} index */
  choose(index) {
    this.select(index);
    this.#onchoose(index);
    this.focus(index); // last, since the panel may now lie over the token
  }

  /** Show a token as chosen; none where the index is negative. @param {number} index */
  select(index) {
    this.#options.forEach((option, i) => {
      option.setAttribute("aria-selected", String(i === index));
      if (index >= 0) option.tabIndex = i === index ? 0 : -1;
    });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = this.#options.indexOf(document.activeElement);
    const last = this.#options.length - 1;
    const next = {
      ArrowRight: Math.min(at + 1, last),
      ArrowDown: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0),
      ArrowUp: Math.max(at - 1, 0),
      Home: 0,
      End: last,
      Enter: at,
      " ": at,
    }[event.key];
    if (next === undefined || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.choose(next);
  }

  #mark(index) {
    this.#options[index].classList.toggle("pg-after", index >= this.#differs);
    this.#options[index].classList.toggle("pg-first", index === this.#differs);
  }
}

/** A token as one can see it. @param {import("../lib/tokenizer.js").Tokenizer} tokenizer */
export function wordOf(tokenizer, id) {
  return EOS.includes(id) ? "end of text" : visible(tokenizer.decode([id]));
}

/** A token of white space, or of a part of a character, in words. */
function spoken(tokenizer, id) {
  const text = tokenizer.decode([id]);
  if (EOS.includes(id)) return "end of text";
  if (text.includes("\n")) return "line break";
  return text.trim() === "" ? "space" : "part of a character";
}
