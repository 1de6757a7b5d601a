export type NewRecord = {
    value: unknown;
    key?: string;
    headers?: Record<string, unknown>;
};
export type Delivery = {
    partition: number;
    offset: number;
    /**
     * How many tries failed before.
     */
    retries: number;
    /**
     * Whether one of them may have taken it as well. Never of an idempotent producer.
     */
    perhapsTwice: boolean;
};
export type ConsumedRecord = {
    topic: string;
    partition: number;
    offset: number;
    /**
     * Given by the leader, since 1970; the same on every replica.
     */
    timestampMs: number;
    /**
     * Bytes if it is not UTF-8.
     */
    key: string | Uint8Array | null;
    /**
     * As published: bytes come back as bytes.
     */
    value: any;
    headers: Record<string, any>;
};
export type WireRecord = {
    partition: number;
    offset: number;
    ts_ms: number;
    key: string | null;
    key_encoding?: string;
    value: any;
    value_encoding?: string;
    headers: Record<string, any>;
};
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
export declare function toWire({ value, key, headers }: NewRecord): Record<string, unknown>;
/**
 * Reads a record as a broker writes it.
 * @param {string} topic
 * @param {WireRecord} wire
 * @returns {ConsumedRecord}
 */
export declare function fromWire(topic: string, wire: WireRecord): ConsumedRecord;
/**
 * Returns the CRC-32C of some bytes.
 * @param {Uint8Array} bytes
 */
export declare function crc32c(bytes: Uint8Array): number;
/**
 * Returns the partition of a key, as brokers and all clients choose it: CRC-32C, mixed as in MurmurHash3.
 * @param {string} key
 * @param {number} partitions
 * @returns {number}
 */
export declare function partitionOfKey(key: string, partitions: number): number;
