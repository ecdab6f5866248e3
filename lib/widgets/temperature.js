/** Chapter 2: temperature reshapes the distribution of one step, and its entropy. */
import { applyTemperature, entropy, softmax } from "./decoder.js";
import { best, choice, frame, probability, rowsOf, svg, temperatureSlider, visible, wordsOf } from "./figure.js";

const SHOWN = 10;
const BARS = { width: 330, line: 24, left: 84, longest: 185 };
const CURVE = { width: 250, left: 10, right: 235, top: 24, bottom: SHOWN * BARS.line - 40 };

const GRID = Array.from({ length: 61 }, (_, i) => 10 ** (-1.3 + (i * 2.3) / 60));

/** Bars of the best tokens at T, with their outlines at T = 1. */
function bars(logits, words, temperature) {
  const now = softmax(applyTemperature(logits, temperature));
  const before = softmax(logits);
  const { line, left, longest } = BARS;
  return best(logits, SHOWN).flatMap((v, rank) => {
    const y = rank * line + 4;
    const length = (p) => p * longest;
    return [
      svg("text", { x: left - 6, y: y + 13, "text-anchor": "end" }, visible(words[v])),
      svg("rect", { class: "ntb-bar", x: left, y, width: length(now[v]), height: line - 8 }),
      svg("rect", { class: "ntb-ghost", x: left, y, width: length(before[v]), height: line - 8 }),
      svg(
        "text",
        { x: left + length(Math.max(now[v], before[v])) + 6, y: y + 13, class: "ntb-number" },
        probability(now[v]),
      ),
    ];
  });
}

/** The entropy of the step along log T, and where it stands now. */
function curve(entropies, highest, temperature, H) {
  const { left, right, top, bottom } = CURVE;
  const x = (T) => left + ((Math.log10(T) + 1.3) / 2.3) * (right - left);
  const y = (h) => bottom - (h / highest) * (bottom - top);
  const path = GRID.map((T, i) => `${i ? "L" : "M"}${x(T)},${y(entropies[i])}`).join("");
  return [
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("line", { class: "ntb-rule", x1: left, x2: right, y1: top, y2: top }),
    svg("text", { x: right, y: top - 6, "text-anchor": "end", class: "ntb-small" }, "log V"),
    svg("path", { class: "ntb-line", d: path }),
    svg("circle", { class: "ntb-dot", cx: x(temperature), cy: y(H), r: 5 }),
    ...[0.1, 1, 10].map((T) =>
      svg("text", { x: x(T), y: bottom + 14, "text-anchor": "middle", class: "ntb-small" }, `${T}`),
    ),
    svg("text", { x: left, y: bottom + 32, class: "ntb-small" }, "entropy along T"),
  ];
}

function render({ model, el }) {
  const rows = rowsOf(model);
  const words = wordsOf(model);
  const along = rows.map((z) => GRID.map((T) => entropy(applyTemperature(z, T))));
  const step = choice({ label: "Step", options: model.get("names"), onchange: draw });
  const T = temperatureSlider(model.get("temperature"), draw);
  const figure = frame(el, {
    title: "Temperature on a step of the model",
    controls: [step, T],
    panels: [
      [BARS.width, SHOWN * BARS.line + 4],
      [CURVE.width, SHOWN * BARS.line + 4],
    ],
  });

  function draw() {
    const logits = rows[step.value];
    const scaled = applyTemperature(logits, T.value);
    const H = entropy(scaled);
    const [first] = best(logits, 1);
    const p = probability(softmax(scaled)[first]);
    figure.show(
      [
        bars(logits, words, T.value),
        curve(along[step.value], Math.log(logits.length), T.value, H),
      ],
      `At T = ${T.value.toFixed(2)} the best token, ${visible(words[first])}, has probability ` +
        `${p}; the entropy is ${H.toFixed(2)} nats.`,
    );
  }
  draw();
  return figure.close;
}

export default { render };
