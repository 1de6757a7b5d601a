// Consuming by server-sent events: brokers push, the client goes on with `Last-Event-ID` at another one when one fails.

import { Refused } from './errors.js';
import { EventParser } from './events.js';
import { fromWire } from './records.js';
import { pause } from './retry.js';
import { judge } from './transport.js';

/**
 * @typedef {import('./records.js').ConsumedRecord} ConsumedRecord
 * @typedef {import('./transport.js').Transport} Transport
 */

/**
 * How a topic is streamed.
 * @typedef {object} StreamOptions
 * @property {string} [group] The group that shares the topic's partitions; without one every partition is read.
 * @property {string} [consumer] Who reads; required with a group.
 * @property {'earliest' | 'latest' | number} [start] Without one: behind what the group has finished.
 * @property {'auto' | 'manual'} [commit] `auto` (default): the broker commits a record once the connection took a later event, whether
 *   or not it was dealt with. `manual`: call `commit` after the work, so that every record is processed at least once.
 * @property {string} [lastEventId] Goes on behind this event of an earlier stream.
 */

/**
 * What a stream tells: `kind` is `record`, `control`, `rebalance` or what newer brokers send.
 * @typedef {{ kind: string, data: any, id?: string, record?: ConsumedRecord }} StreamEvent
 */

/** Brokers show every few seconds that they live; one that is silent for so long is given up. */
const SILENCE_MAX_MS = 20_000;
/** The wait before a stream that ended is opened again, unless the broker said another one. */
const REOPEN_MS = 100;

/** A stream of records that survives its broker: `for await (const record of stream)`. */
export class Stream {
  #transport;
  #topic;
  #options;
  /** @type {string | undefined} */
  #lastEventId;
  /** @type {number | undefined} */
  #memberEpoch;
  #waitMs = REOPEN_MS;
  #opened = false;
  #broker = '';
  #abort = new AbortController();
  /** @type {Map<number, number>} */
  #handed = new Map();

  /** @internal @param {Transport} transport @param {string} topic @param {StreamOptions} options */
  constructor(transport, topic, options) {
    if (options.group !== undefined && options.consumer === undefined) {
      throw new TypeError('a group was named without the consumer that reads for it');
    }
    this.#transport = transport;
    this.#topic = topic;
    this.#options = options;
    this.#lastEventId = options.lastEventId;
  }

  /** Where the stream stands: what `lastEventId` takes another one from there, at any broker. */
  get lastEventId() {
    return this.#lastEventId;
  }

  /** The broker that serves the stream now. */
  get broker() {
    return this.#broker;
  }

  /** @returns {AsyncGenerator<ConsumedRecord, void>} */
  async *[Symbol.asyncIterator]() {
    for await (const event of this.events()) {
      if (event.record) yield event.record;
    }
  }

  /**
   * Returns everything that the stream tells, records included.
   * @returns {AsyncGenerator<StreamEvent, void>}
   */
  async *events() {
    while (!this.#abort.signal.aborted) {
      let reader;
      try {
        reader = await this.#open();
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        throw error;
      }
      const parser = new EventParser();
      try {
        for (let chunk = await next(reader); chunk; chunk = await next(reader)) {
          for (const message of parser.feed(chunk)) {
            const event = this.#take(message);
            if (event) yield event;
          }
        }
      } finally {
        // It fails only for a connection that is gone already.
        await reader.cancel().catch(() => {});
      }
      // The stream broke off or was closed: another broker is asked next.
      this.#transport.avoid(this.#broker);
    }
  }

  /**
   * Commits everything that was handed out, or one partition up to a record; for `commit: 'manual'`.
   * @param {{ partition: number, offset: number }} [record]
   * @returns {Promise<void>}
   */
  async commit(record) {
    const due = record ? [[record.partition, record.offset]] : [...this.#handed];
    for (const [partition, offset] of due) {
      const body = { topic: this.#topic, partition, offset, ...this.#reader() };
      await this.#transport.json({ method: 'POST', path: '/commit', body });
      if (this.#handed.get(partition) === offset) this.#handed.delete(partition);
    }
  }

  /**
   * Ends the stream, and a loop that waits for it, and leaves the group, so that others take its partitions over at once. What the
   * broker has not committed yet is read again by them; call `commit` before if it was dealt with. Only breaking out of a loop
   * closes the connection alone: iterating again goes on behind the last event.
   * @returns {Promise<void>}
   */
  async close() {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort(new DOMException('the stream was closed', 'AbortError'));
    if (this.#options.group === undefined || !this.#opened) return;
    await this.#transport.json({ method: 'POST', path: '/unsubscribe', body: { topic: this.#topic, ...this.#reader() } });
  }

  #reader() {
    return { group_id: this.#options.group, consumer_id: this.#options.consumer, member_epoch: this.#memberEpoch };
  }

  async #open() {
    const { group, consumer, start, commit } = this.#options;
    const signal = this.#abort.signal;
    if (this.#opened) await pause(this.#waitMs, signal);
    /** @type {Record<string, string>} */
    const headers = { accept: 'text/event-stream' };
    if (this.#lastEventId !== undefined) headers['last-event-id'] = this.#lastEventId;
    const from = this.#opened || this.#lastEventId !== undefined ? undefined : start;
    const reply = await this.#transport.send({
      method: 'GET',
      path: `/topics/${encodeURIComponent(this.#topic)}/stream`,
      query: { group_id: group, consumer_id: consumer, from, commit: group === undefined ? undefined : (commit ?? 'auto') },
      headers,
      signal,
      patienceMs: SILENCE_MAX_MS,
      stream: true,
    });
    this.#opened = true;
    this.#broker = reply.broker;
    const body = /** @type {ReadableStream<Uint8Array>} */ (reply.response?.body);
    return body.getReader();
  }

  /**
   * Takes a message in; throws the error that ends the stream for good.
   * @param {import('./events.js').Message} message
   * @returns {StreamEvent | undefined}
   */
  #take(message) {
    if (message.id !== undefined) this.#lastEventId = message.id;
    if (message.retryMs !== undefined) this.#waitMs = message.retryMs;
    if (message.data === '') return undefined;
    let data;
    try {
      data = this.#transport.settings.json.parse(message.data);
    } catch {
      return undefined;
    }
    const kind = message.event || 'message';
    if (kind === 'error') {
      if (judge(Number(data.status ?? 500), data) === 'no') throw new Refused(this.#broker, data);
      return undefined;
    }
    if (data?.member_epoch !== undefined) this.#memberEpoch = Number(data.member_epoch);
    if (kind !== 'record') return { kind, data, id: message.id };
    const record = fromWire(this.#topic, data);
    this.#handed.set(record.partition, record.offset);
    return { kind, data, id: message.id, record };
  }
}

/**
 * Returns the next piece; undefined when the stream ended, broke off, or was silent for too long.
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @returns {Promise<Uint8Array | undefined>}
 */
async function next(reader) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const silence = new Promise((resolve) => (timer = setTimeout(resolve, SILENCE_MAX_MS)));
  try {
    const piece = await Promise.race([reader.read(), silence]);
    return /** @type {{ value?: Uint8Array } | undefined} */ (piece)?.value;
  } catch {
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}
