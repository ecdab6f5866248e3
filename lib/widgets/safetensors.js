/**
 * Weights from a file in the safetensors format.
 *
 * Eight bytes say how long the header is; the header, in JSON, says of each
 * tensor its type, its shape and where its numbers lie; the numbers follow.
 * Everything is little-endian.
 *
 * Format: https://huggingface.co/docs/safetensors
 */

/**
 * @typedef {object} Tensor
 * @property {number[]} shape
 * @property {Float32Array} data  The numbers, row by row.
 */

/** How to read each type of number; the file may hold no other. */
const READERS = {
  F32: { bytes: 4, read: (/** @type {ArrayBuffer} */ raw) => new Float32Array(raw) },
  F16: { bytes: 2, read: (/** @type {ArrayBuffer} */ raw) => widened(new Uint16Array(raw)) },
};

/**
 * Read all tensors of a safetensors file, as float32.
 *
 * @param {ArrayBuffer | ArrayBufferView} file  The whole file.
 * @returns {Map<string, Tensor>}
 * @throws {TypeError} Where `file` is no buffer, or a tensor neither F16 nor F32.
 * @throws {RangeError} Where the file is cut short or contradicts its header.
 */
export function parseSafetensors(file) {
  const bytes = bytesOf(file);
  const { header, start } = headerOf(bytes);
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    tensors.set(name, tensorOf(name, entry, bytes.subarray(start)));
  }
  return tensors;
}

/** @param {ArrayBuffer | ArrayBufferView} file */
function bytesOf(file) {
  if (file instanceof ArrayBuffer) return new Uint8Array(file);
  if (ArrayBuffer.isView(file)) {
    return new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  }
  throw new TypeError(`file=${file} must be an ArrayBuffer or a view of one`);
}

/** @param {Uint8Array} bytes */
function headerOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.length >= 8 ? Number(view.getBigUint64(0, true)) : 0;
  if (length < 2 || 8 + length > bytes.length) {
    throw new RangeError(
      `file of ${bytes.length} bytes is no safetensors file: its header of ` +
        `${length} bytes must be 2 to ${Math.max(2, bytes.length - 8)} bytes long`,
    );
  }
  const text = new TextDecoder().decode(bytes.subarray(8, 8 + length));
  return { header: JSON.parse(text), start: 8 + length };
}

/**
 * @param {string} name
 * @param {{dtype: string, shape: number[], data_offsets: [number, number]}} entry
 * @param {Uint8Array} numbers  Those of all tensors.
 * @returns {Tensor}
 */
function tensorOf(name, { dtype, shape, data_offsets: [begin, end] }, numbers) {
  if (!Object.hasOwn(READERS, dtype)) {
    const known = Object.keys(READERS).join(", ");
    throw new TypeError(`tensor "${name}" has dtype ${dtype}; it must be one of ${known}`);
  }
  const { bytes, read } = READERS[/** @type {keyof typeof READERS} */ (dtype)];
  const needed = shape.reduce((product, size) => product * size, bytes);
  if (begin < 0 || end > numbers.length || end - begin !== needed) {
    throw new RangeError(
      `tensor "${name}" has data_offsets [${begin}, ${end}]; they must span the ` +
        `${needed} bytes of shape [${shape}] and lie in 0..${numbers.length}`,
    );
  }
  // A copy, since typed arrays may begin only at multiples of their item size.
  const raw = numbers.slice(begin, end).buffer;
  return { shape, data: read(/** @type {ArrayBuffer} */ (raw)) };
}

/** @param {Uint16Array} halves  Bit patterns of IEEE 754 binary16 numbers. */
function widened(halves) {
  table ??= tableOfHalves();
  const wide = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) wide[i] = table[halves[i]];
  return wide;
}

/** @type {Float32Array | undefined} */
let table;

/** There are only 65,536 half-precision numbers: all of them, by bit pattern. */
function tableOfHalves() {
  return Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0) return sign * fraction * 2 ** -24; // zero and subnormal
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}
