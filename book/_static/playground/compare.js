/**
 * Where two token sequences part, and what they have in common.
 *
 * @param {number[]} a
 * @param {number[]} b
 * @returns {{ prefix: number, differs: boolean, same: number, places: number }}
 *   `prefix` tokens are shared from the beginning; `differs` says whether both go on
 *   after them; of the `places` that both have, `same` hold the same token
 */
export function compare(a, b) {
  const places = Math.min(a.length, b.length);
  let prefix = 0;
  while (prefix < places && a[prefix] === b[prefix]) prefix++;
  let same = prefix;
  for (let i = prefix; i < places; i++) if (a[i] === b[i]) same++;
  return { prefix, differs: prefix < places, same, places };
}
