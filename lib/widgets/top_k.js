/** Chapter 3: one k on a peaked step and on a flat one. */
import { applyTopK, crossingRank } from "./decoder.js";
import { frame, rowsOf, slider, visible, wordsOf } from "./figure.js";
import { PANEL, cutInWords, cutOf, ladder, mark, rankedPanel, ranking, whole } from "./ranked.js";

const ENOUGH = 0.95; // by which too many and too few are told

/** How many tokens hold ENOUGH, and how the number kept compares. */
function verdict(kept, needed) {
  const by = Math.abs(kept - needed);
  const compared = by ? `${whole(by)} too ${kept > needed ? "many" : "few"}` : "just enough";
  return `95 % takes ${whole(needed)}: ${compared}`;
}

function render({ model, el }) {
  const words = wordsOf(model);
  const names = model.get("names");
  const steps = rowsOf(model).map((logits) => {
    const ranks = ranking(logits);
    const sorted = Float32Array.from(ranks.order, (v) => logits[v]);
    return { logits, ranks, needed: crossingRank(sorted, ENOUGH) + 1 };
  });
  const rungs = ladder(model.get("vocab"), model.get("top_k"));
  const k = slider({
    label: "Keep best k",
    min: 0,
    max: rungs.length - 1,
    step: 1,
    value: rungs.indexOf(model.get("top_k")),
    at: (position) => rungs[position],
    format: whole,
    onchange: draw,
  });
  const figure = frame(el, {
    title: "Top-k on two steps of the model",
    controls: [k],
    panels: [PANEL, PANEL],
  });

  function draw() {
    const cuts = steps.map(({ logits, ranks }) => cutOf(ranks, applyTopK(logits, k.value)));
    const report = cuts.map(({ kept }, i) => verdict(kept, steps[i].needed));
    figure.show(
      steps.map(({ ranks, needed }, i) => [
        ...rankedPanel(names[i], words, ranks, cuts[i], {
          level: ENOUGH,
          levelName: "95 %",
          foot: `last: ${visible(words[cuts[i].token])}`,
          report: `◇ ${report[i]}`,
        }),
        mark(ranks, needed),
      ]),
      `With k = ${whole(k.value)}: ` +
        steps.map((_, i) => `“${names[i]}”: ${cutInWords(cuts[i])}; ${report[i]}.`).join(" "),
    );
  }
  draw();
  return figure.close;
}

export default { render };
