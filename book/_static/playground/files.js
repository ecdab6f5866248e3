/** The model's files: fetched once, kept in the browser's cache, then taken from there. */
import { FILES, VERSION } from "./facts.js";

const STORE = "the-next-token:tiny:";

/**
 * One of the model's files.
 * @param {string} name
 * @param {(bytes: number) => void} [progress] told how many bytes have come
 * @returns {Promise<Uint8Array>}
 * @throws {Error} which says what failed
 */
export async function file(name, progress = () => {}) {
  const url = new URL(`../tiny/${name}?v=${VERSION}`, import.meta.url).href;
  const store = await openStore();
  const kept = await read(store, url);
  if (kept?.length === FILES[name]) return kept;
  const bytes = await download(name, url, progress);
  if (bytes.length !== FILES[name]) {
    throw new Error(`${name} has ${bytes.length} bytes; it must have ${FILES[name]}`);
  }
  // Without room to keep it, it is fetched again next time.
  await store?.put(url, new Response(bytes)).catch(() => {});
  return bytes;
}

/** What is kept; nothing where the browser cannot read it, for it can be fetched. */
async function read(store, url) {
  try {
    const kept = await store?.match(url);
    return kept && new Uint8Array(await kept.arrayBuffer());
  } catch {
    return undefined;
  }
}

/** A file of JSON. @param {string} name */
export async function json(name) {
  return JSON.parse(new TextDecoder().decode(await file(name)));
}

async function download(name, url, progress) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${name} could not be fetched: no answer from ${new URL(url).host}`);
  }
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  const parts = [];
  let length = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
      progress((length += value.length));
    }
  } catch {
    throw new Error(`${name} broke off after ${length} of ${FILES[name]} bytes`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** The cache of this version; none where the browser keeps none for this page. */
async function openStore() {
  try {
    for (const name of await caches.keys()) {
      if (name.startsWith(STORE) && name !== STORE + VERSION) await caches.delete(name);
    }
    return await caches.open(STORE + VERSION);
  } catch {
    return undefined;
  }
}
