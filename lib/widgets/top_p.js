/** Chapter 4: one mass on a peaked step and on a flat one, after a temperature. */
import { applyTemperature, applyTopP } from "./decoder.js";
import { frame, rowsOf, slider, temperatureSlider, visible, wordsOf } from "./figure.js";
import { PANEL, cutInWords, cutOf, rankedPanel, ranking, whole } from "./ranked.js";

function render({ model, el }) {
  const words = wordsOf(model);
  const names = model.get("names");
  const rows = rowsOf(model);
  const rho = slider({
    label: "Mass ρ",
    min: 0.005,
    max: 1,
    step: 0.005,
    value: model.get("top_p"),
    format: (value) => value.toFixed(3),
    onchange: draw,
  });
  const T = temperatureSlider(model.get("temperature"), draw);
  const figure = frame(el, {
    title: "Top-p on two steps of the model",
    controls: [rho, T],
    panels: [PANEL, PANEL],
  });

  function draw() {
    const written = rho.value.toFixed(3);
    const steps = rows.map((logits) => {
      const heated = applyTemperature(logits, T.value);
      const ranks = ranking(heated);
      const cut = cutOf(ranks, applyTopP(heated, rho.value));
      return { ranks, cut, crossing: visible(words[cut.token]) };
    });
    figure.show(
      steps.map(({ ranks, cut, crossing }, i) =>
        rankedPanel(names[i], words, ranks, cut, {
          level: rho.value,
          levelName: `ρ = ${written}`,
          foot: cut.removed ? `${crossing} crosses` : "nothing crosses",
          report: cut.removed
            ? `crossing: ${crossing}, place ${whole(cut.kept)}`
            : "ρ = 1 removes nothing",
        }),
      ),
      `With ρ = ${written} at T = ${T.value.toFixed(2)}: ` +
        steps
          .map(({ cut, crossing }, i) => {
            const crosses = cut.removed ? `; ${crossing} crosses` : "";
            return `“${names[i]}”: ${cutInWords(cut)}${crosses}.`;
          })
          .join(" "),
    );
  }
  draw();
  return figure.close;
}

export default { render };
