// Records on their way to a topic and from it.

/**
 * A record to publish. The value is anything that JSON has a form for, or a Uint8Array. Records of one key stay in order.
 * @typedef {{ value: unknown, key?: string, headers?: Record<string, unknown> }} NewRecord
 */

/**
 * What became of a record that was published.
 * @typedef {object} Delivery
 * @property {number} partition
 * @property {number} offset
 * @property {number} retries How many tries failed before.
 * @property {boolean} perhapsTwice Whether one of them may have taken it as well. Never of an idempotent producer.
 */

/**
 * A record as read.
 * @typedef {object} ConsumedRecord
 * @property {string} topic
 * @property {number} partition
 * @property {number} offset
 * @property {number} timestampMs Given by the leader, since 1970; the same on every replica.
 * @property {string | Uint8Array | null} key Bytes if it is not UTF-8.
 * @property {any} value As published: bytes come back as bytes.
 * @property {Record<string, any>} headers
 */

/**
 * A record as brokers write it.
 * @typedef {{ partition: number, offset: number, ts_ms: number, key: string | null, key_encoding?: string, value: any, value_encoding?: string, headers: Record<string, any> }} WireRecord
 */

/**
 * Returns a record as a broker takes it.
 * @param {NewRecord} record
 * @returns {Record<string, unknown>}
 */
export function toWire({ value, key, headers }) {
  if (value === undefined) throw new TypeError('a record needs a value; null is one');
  /** @type {Record<string, unknown>} */
  const wire = value instanceof Uint8Array ? { value: toBase64(value), value_encoding: 'base64' } : { value };
  if (key !== undefined) wire.key = key;
  if (headers !== undefined) wire.headers = headers;
  return wire;
}

/**
 * Reads a record as a broker writes it.
 * @param {string} topic
 * @param {WireRecord} wire
 * @returns {ConsumedRecord}
 */
export function fromWire(topic, wire) {
  return {
    topic,
    partition: Number(wire.partition),
    offset: Number(wire.offset),
    timestampMs: Number(wire.ts_ms),
    key: wire.key_encoding === 'base64' && wire.key !== null ? fromBase64(wire.key) : wire.key,
    value: wire.value_encoding === 'base64' ? fromBase64(wire.value) : wire.value,
    headers: wire.headers ?? {},
  };
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** CRC-32C, by bytes. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0x82f63b78 : 0);
  return sum;
});

/**
 * Returns the CRC-32C of some bytes.
 * @param {Uint8Array} bytes
 */
export function crc32c(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = (sum >>> 8) ^ CRC_TABLE[(sum ^ byte) & 0xff];
  return (sum ^ 0xffffffff) >>> 0;
}

/**
 * Returns the partition of a key, as brokers and all clients choose it: CRC-32C, mixed as in MurmurHash3.
 * @param {string} key
 * @param {number} partitions
 * @returns {number}
 */
export function partitionOfKey(key, partitions) {
  let mixed = crc32c(new TextEncoder().encode(key));
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 0;
  return ((mixed ^ (mixed >>> 16)) >>> 0) % Math.max(partitions, 1);
}
