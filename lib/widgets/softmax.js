/** Chapter 1: a slider a word for its logit, its probability, and the odds of two words. */
import { entropy, maximum, softmax } from "./decoder.js";
import { button, choice, frame, html, probability, rowsOf, slider, svg, visible, wordsOf } from "./figure.js";

const SHIFT = 2; // how far all logits can be moved together
const MARGIN = 3; // how far beyond the first logits one can be moved
const LINE = { width: 320, height: 126, left: 10, right: 312, axis: 82 };
const GAUGE = { width: 320, height: 90, left: 10, right: 310, top: 44, thick: 18 };

const signed = (z) => z.toFixed(2).replace("-", "−");

/** The slider of one word with a bar of its probability, and a tick where that began. */
function wordRow(control, first) {
  const bar = html("div", { class: "ntb-fill" });
  const tick = html("div", { class: "ntb-tick", style: `left: ${first * 100}%` });
  const number = html("span", { class: "ntb-value" });
  control.node.classList.add("ntb-word");
  control.node.append(html("div", { class: "ntb-track", "aria-hidden": "true" }, bar, tick), number);
  return (p) => {
    bar.style.width = `${p * 100}%`;
    number.textContent = probability(p);
  };
}

/** What stands above the columns of the words. */
function header() {
  const heading = (text, more = "") => html("span", { class: `ntb-heading ${more}` }, text);
  return {
    node: html(
      "div",
      { class: "ntb-control ntb-word", "aria-hidden": "true" },
      heading("word"),
      html("span"),
      heading("logit"),
      heading("p (┃ at first)", "ntb-wide"),
    ),
  };
}

/** The logits on a line, the gap of the pair, and log-sum-exp. */
function line(z, lse, words, [a, b], [low, high]) {
  const { left, right, axis } = LINE;
  const x = (value) => left + ((value - low) / (high - low)) * (right - left);
  const [lower, upper] = z[a] < z[b] ? [a, b] : [b, a];
  const [from, to] = [x(z[lower]), x(z[upper])];
  const ticks = [-10, -5, 0, 5, 10, 15, 20].filter((value) => value >= low && value <= high);
  const text = (at, y, anchor, content, small) =>
    svg("text", { x: at, y, "text-anchor": anchor, class: small && "ntb-small" }, content);
  return [
    text(2, 15, "start", `┃ log-sum-exp ${signed(lse)}`),
    text(2, 34, "start", "p = exp(logit − log-sum-exp)", true),
    svg("path", { class: "ntb-mark", d: `M${x(lse)},${axis - 8}v16` }),
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: axis, y2: axis }),
    ...ticks.map((value) => svg("path", { class: "ntb-axis", d: `M${x(value)},${axis}v8` })),
    ...ticks.map((value) => text(x(value), axis + 22, "middle", `${value}`.replace("-", "−"), true)),
    text(right, axis + 38, "end", "logits", true),
    ...Array.from(z, (value) => svg("circle", { class: "ntb-bar", cx: x(value), cy: axis, r: 4 })),
    svg("path", { class: "ntb-bracket", d: `M${from},${axis - 7}v-8H${to}v8` }),
    text((from + to) / 2, axis - 22, "middle", `gap ${signed(z[a] - z[b])}`),
    text(from - 5, axis - 9, "end", visible(words[lower])),
    text(to + 5, axis - 9, "start", visible(words[upper])),
  ];
}

/** The entropy between certainty and all words alike. */
function gauge(H, V) {
  const { left, right, top, thick } = GAUGE;
  const width = right - left;
  const length = (H / Math.log(V)) * width;
  return [
    svg("text", { x: 2, y: 15 }, `entropy ${H.toFixed(2)} nats`),
    svg("text", { x: 2, y: 34, class: "ntb-small" }, `as ${Math.exp(H).toFixed(1)} equally probable words`),
    svg("rect", { class: "ntb-ghost", x: left, y: top, width, height: thick }),
    svg("rect", { class: "ntb-bar", x: left, y: top, width: length, height: thick }),
    svg("text", { x: left, y: top + thick + 16, class: "ntb-small" }, "0: one word"),
    svg(
      "text",
      { x: right, y: top + thick + 16, class: "ntb-small", "text-anchor": "end" },
      `log ${V} = ${Math.log(V).toFixed(2)}: all alike`,
    ),
  ];
}

function render({ model, el }) {
  const [first] = rowsOf(model);
  const words = wordsOf(model);
  const pair = model.get("pair");
  const low = Math.floor(-maximum(first.map((z) => -z))) - MARGIN;
  const high = Math.ceil(maximum(first)) + MARGIN;
  let own = first.slice(); // before the common shift

  const shift = slider({
    label: "shift all",
    min: -SHIFT,
    max: SHIFT,
    step: 0.05,
    value: 0,
    format: signed,
    onchange: draw,
  });
  shift.node.classList.add("ntb-word");
  const sliders = words.map((word, v) =>
    slider({
      label: visible(word),
      min: low - SHIFT,
      max: high + SHIFT,
      step: 0.05,
      value: first[v],
      format: () => signed(own[v] + shift.value),
      onchange: () => {
        own[v] = Math.min(Math.max(sliders[v].value - shift.value, low), high);
        draw();
      },
    }),
  );
  const start = softmax(first);
  const rows = sliders.map((control, v) => wordRow(control, start[v]));
  const [a, b] = ["Odds of", "against"].map((label, i) =>
    choice({ label, options: words.map(visible), value: pair[i], onchange: draw }),
  );
  const figure = frame(el, {
    title: "Softmax of the logits you set",
    controls: [header(), ...sliders, shift, a, b, button("Reset", reset)],
    panels: [
      [LINE.width, LINE.height],
      [GAUGE.width, GAUGE.height],
    ],
  });

  function reset() {
    own = first.slice();
    shift.position = 0;
    [a.value, b.value] = pair;
    draw();
  }

  function draw() {
    const z = own.map((value) => value + shift.value);
    const p = softmax(z);
    const H = entropy(z);
    const best = z.indexOf(maximum(z));
    const lse = z[best] - Math.log(p[best]);
    const [v, w] = [a.value, b.value];
    sliders.forEach((control, i) => {
      control.position = z[i];
      rows[i](p[i]);
    });
    figure.show(
      [
        line(z, lse, words, [v, w], [low - SHIFT, high + SHIFT + Math.log(z.length)]),
        gauge(H, z.length),
      ],
      `${visible(words[v])} ${probability(p[v])}, ${visible(words[w])} ${probability(p[w])}: ` +
        `the odds are exp(${signed(z[v])} − ${signed(z[w])}) = ${Math.exp(z[v] - z[w]).toPrecision(3)}. ` +
        `Log-sum-exp is ${signed(lse)}, the entropy ${H.toFixed(2)} nats.`,
    );
  }
  draw();
  return figure.close;
}

export default { render };
