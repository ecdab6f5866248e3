/**
 * What the live figures share: elements, sliders, spoken summaries, and their data.
 *
 * A figure is an anywidget front-end module. It draws with SVG in units of its own
 * `viewBox`, so that it fits any width; its controls are ordinary labelled inputs, so
 * that mouse, touch, keyboard and screen readers work without further code.
 */

// JupyterLab takes arrow keys and Enter for commands of its own, unless told not to.
const CONTROLS = ["button", "input", "select"];
const OWN_KEYS = { "data-lm-suppress-shortcuts": true };

/** Create an HTML element with attributes and children. */
export function html(tag, attributes = {}, ...children) {
  const own = CONTROLS.includes(tag) ? OWN_KEYS : {};
  return fill(document.createElement(tag), { ...attributes, ...own }, children);
}

/** Create an SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** The float32 numbers of a bytes trait, wherever they lie in the message. */
export function floats(model, name) {
  const view = model.get(name);
  const bytes = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength);
  return new Float32Array(bytes.slice().buffer); // a copy, for the alignment
}

/** The rows of a matrix trait: logits (rows, vocab). */
export function rowsOf(model, name = "logits") {
  const all = floats(model, name);
  const width = model.get("vocab");
  return Array.from({ length: all.length / width }, (_, row) =>
    all.subarray(row * width, (row + 1) * width),
  );
}

/** The text of each token id. */
export function wordsOf(model) {
  return JSON.parse(model.get("words"));
}

// Each figure brings its own copy of this module: numbers alone would not be unique.
const unique = Math.random().toString(36).slice(2, 10);
let labels = 0;

/**
 * A labelled slider with its value written beside it.
 * `at` maps its position to the value it stands for, `format` writes that value.
 */
export function slider({ label, min, max, step, value, at = Number, format = String, onchange }) {
  const id = `ntb-slider-${unique}-${++labels}`;
  // Silent: the slider itself says its value, and an output would say it once more.
  const written = html("output", { for: id, "aria-live": "off" });
  const input = html("input", { id, type: "range", min, max, step, value });
  const show = () => {
    written.textContent = format(at(input.valueAsNumber));
    input.setAttribute("aria-valuetext", written.textContent);
  };
  input.addEventListener("input", () => {
    show();
    onchange();
  });
  show();
  return {
    node: html("div", { class: "ntb-control" }, html("label", { for: id }, label), input, written),
    get value() {
      return at(input.valueAsNumber);
    },
    set position(position) {
      input.value = position;
      show();
    },
  };
}

/** A labelled choice among texts; its value is the index of the chosen one. */
export function choice({ label, options, value = 0, onchange }) {
  const id = `ntb-choice-${unique}-${++labels}`;
  const select = html(
    "select",
    { id, onchange },
    ...options.map((text, index) =>
      html("option", { value: index, selected: index === value }, text),
    ),
  );
  return {
    node: html("div", { class: "ntb-control" }, html("label", { for: id }, label), select),
    get value() {
      return Number(select.value);
    },
    set value(index) {
      select.value = index;
    },
  };
}

/**
 * The frame of a figure: controls, then panels side by side that stack on a phone, then
 * a sentence that says what they show. The sentence is spoken once the reader pauses.
 *
 * @param {HTMLElement} el where the figure goes
 * @param {{ title: string, controls: { node: Node }[], panels: [number, number][] }} parts
 *   panels are given by width and height in drawing units, which are pixels on a phone:
 *   at most 330 wide keeps their text readable there
 */
export function frame(el, { title, controls, panels }) {
  const drawings = panels.map(([width, height]) =>
    svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      style: `flex: ${width} 1 ${width}px; max-width: min(100%, ${1.5 * width}px)`,
    }),
  );
  const picture = html("div", { class: "ntb-panels", role: "img" }, ...drawings);
  const sentence = html("p", { class: "ntb-says" });
  const spoken = html("p", { class: "ntb-spoken", "aria-live": "polite" });
  el.replaceChildren(
    html(
      "div",
      { class: "ntb-figure", role: "group", "aria-label": title },
      html("div", { class: "ntb-controls" }, ...controls.map((control) => control.node)),
      picture,
      sentence,
      spoken,
    ),
  );
  let pause;
  return {
    /** Replace what the panels hold, one list of shapes each, and say what they show. */
    show(shapes, says) {
      drawings.forEach((drawing, i) => drawing.replaceChildren(...shapes[i]));
      picture.setAttribute("aria-label", says);
      sentence.textContent = says;
      clearTimeout(pause);
      pause = setTimeout(() => (spoken.textContent = says), 600);
    },
    close: () => clearTimeout(pause),
  };
}

/** A token as a reader can see it: its space as ␣, a line break as ↵, and so on. */
export function visible(token) {
  const signs = { " ": "␣", "\n": "↵", "\x7f": "␡" };
  const sign = (c) => signs[c] ?? String.fromCharCode(0x2400 + c.charCodeAt(0));
  return token.replace(/[\0- \x7f]/g, sign) || "∅";
}

/** The ids of the best tokens, best first, ties in id order. */
export function best(logits, count) {
  return Array.from(logits.keys())
    .sort((a, b) => logits[b] - logits[a] || a - b)
    .slice(0, count);
}

/** A probability with digits that matter: 0.213, 0.0042, < 0.0001. */
export function probability(p) {
  if (p === 0) return "0";
  if (p < 0.0001) return "< 0.0001";
  return p < 0.01 ? p.toFixed(4) : p.toFixed(3);
}

/** A slider of temperatures, 0.05 to 10 with two decimals, that moves their logarithm. */
export function temperatureSlider(value, onchange) {
  return slider({
    label: "Temperature T",
    min: -1.3,
    max: 1,
    step: 0.005,
    value: Math.log10(value),
    at: (position) => Math.round(100 * 10 ** position) / 100, // what it shows is what it is
    format: (T) => T.toFixed(2),
    onchange,
  });
}

/** A button as a control of its own. */
export function button(label, onclick) {
  return {
    node: html(
      "div",
      { class: "ntb-control" },
      html("span"),
      html("span", {}, html("button", { type: "button", onclick }, label)),
    ),
  };
}
