/** A strip of length 1, divided among the tokens in the order of their ids. */
import { svg, visible } from "./figure.js";

const LETTER = 7.4; // units a letter of 12 px takes at most, nearly

/**
 * The strip between `from` and `to`, each token's share labelled where it has room.
 * @param {{ p: ArrayLike<number>, words: string[], x: (u: number) => number, y: number,
 *   height: number, from?: number, to?: number }} parts
 */
export function ruler({ p, words, x, y, height, from = 0, to = 1 }) {
  const shapes = [
    svg("rect", { class: "ntb-removed", x: x(from), y, width: x(to) - x(from), height }),
  ];
  let [end, odd] = [0, true];
  for (let v = 0; v < p.length; v++) {
    const start = end;
    end += p[v];
    if (x(end) - x(start) < 1) continue; // too thin to be seen
    odd = !odd;
    if (end <= from || start >= to) continue;
    const left = x(Math.max(start, from));
    const width = x(Math.min(end, to)) - left;
    shapes.push(svg("rect", { class: odd ? "ntb-share ntb-odd" : "ntb-share", x: left, y, width, height }));
    const word = visible(words[v]);
    if (width < word.length * LETTER + 4) continue;
    shapes.push(
      svg(
        "text",
        { x: left + width / 2, y: y + height / 2 + 4, "text-anchor": "middle", class: "ntb-label" },
        word,
      ),
    );
  }
  return shapes;
}
