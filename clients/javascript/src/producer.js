// Publishing: once each, to whichever broker answers.

import { MalformedAnswer, OutcomeUnknown, PartlyPublished, PubsubError, Refused } from './errors.js';
import { partitionOfKey, toWire } from './records.js';
import { randomId } from './transport.js';

/**
 * @typedef {import('./records.js').Delivery} Delivery
 * @typedef {import('./records.js').NewRecord} NewRecord
 * @typedef {import('./transport.js').Transport} Transport
 * @typedef {import('./transport.js').Reply} Reply
 */

/**
 * How records are published.
 * @typedef {object} ProducerOptions
 * @property {'all' | 'leader' | 'none'} [acks] What a broker waits for: all replicas in sync (default), the leader, or none.
 * @property {number} [partition] Without one the partition is chosen by key, or in turn.
 * @property {number} [commitTimeoutMs] How long the leader waits for its followers before it says that the outcome is not known.
 * @property {boolean} [idempotent] Publishes again when the outcome of a try is not known, and has brokers store every record
 *   once all the same (default). Needs `acks: 'all'`; with others it does nothing.
 * @property {number} [deadlineMs] For how long tries may begin.
 */

/** How much longer than the broker's own limit an answer is waited for. */
const ANSWER_SLACK_MS = 2_000;
/** Most records, and about the most characters, of one request of `publishMany`. */
const RECORDS_MAX = 1_000;
const CHARACTERS_MAX = 1 << 20;
const SEQUENCE_MAX = 2 ** 32 - 1;
const EPOCH_MAX = 2 ** 16 - 1;

/** One partition as an idempotent producer sees it. One request is under way there at a time. */
class Lane {
  #id;
  #epoch = 0;
  #sequence = 0;
  /** A request was sent and nothing is known of it. */
  #uncertain = false;
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();

  /** @param {string} id */
  constructor(id) {
    this.#id = id;
  }

  /**
   * Runs what needs the lane once everything before it has ended.
   * @template T
   * @param {() => Promise<T>} act
   * @returns {Promise<T>}
   */
  inTurn(act) {
    const result = this.#last.then(act);
    this.#last = result.catch(() => {});
    return result;
  }

  /**
   * Returns the headers of the next `count` records, which are about to be sent.
   * @param {number} count
   */
  begin(count) {
    if (this.#uncertain || this.#sequence + count > SEQUENCE_MAX) {
      // A higher epoch also fences what may still be under way.
      [this.#sequence, this.#epoch] = [0, this.#epoch + 1];
      if (this.#epoch > EPOCH_MAX) [this.#id, this.#epoch] = [randomId(), 0];
    }
    this.#uncertain = true;
    return { 'producer-id': this.#id, 'producer-epoch': String(this.#epoch), 'producer-seq': String(this.#sequence) };
  }

  /** @param {number} count */
  stored(count) {
    this.#sequence += count;
    this.#uncertain = false;
  }

  refused() {
    this.#uncertain = false;
  }
}

/** Publishes to one topic, with one request a partition under way. */
export class Producer {
  #transport;
  #topic;
  #options;
  #idempotent;
  #id = randomId();
  /** @type {Map<number, Lane>} */
  #lanes = new Map();
  #partitions = 0;
  #turn = Math.floor(Math.random() * 65_536);

  /** @internal @param {Transport} transport @param {string} topic @param {ProducerOptions} options */
  constructor(transport, topic, options) {
    const acks = options.acks ?? 'all';
    if (!['all', 'leader', 'none'].includes(acks)) throw new TypeError(`acks is ${acks}: use all, leader or none`);
    this.#transport = transport;
    this.#topic = topic;
    this.#options = { commitTimeoutMs: 5_000, ...options, acks };
    this.#idempotent = (options.idempotent ?? true) && acks === 'all';
  }

  /**
   * Publishes one record and waits as `acks` says. Throws OutcomeUnknown if it may or may not be published; after any other error
   * it certainly is not.
   * @param {unknown} value
   * @param {{ key?: string, headers?: Record<string, unknown> }} [more]
   * @returns {Promise<Delivery>}
   */
  async publish(value, more = {}) {
    const record = { value, ...more };
    const partition = await this.#place(record, undefined);
    const reply = await this.#send(partition, 1, toWire(record));
    return this.#delivery(reply, this.#transport.parse(reply));
  }

  /**
   * Publishes many records, in as few requests as fit; those of one key stay in order, and so does the answer. Throws
   * PartlyPublished if a request failed after another one succeeded.
   * @param {Iterable<NewRecord>} given
   * @returns {Promise<Delivery[]>}
   */
  async publishMany(given) {
    const records = [...given];
    const wires = records.map(toWire);
    const keyless = await this.#nextTurn();
    /** @type {Map<number | undefined, number[]>} */
    const shares = new Map();
    for (const [index, record] of records.entries()) {
      const partition = await this.#place(record, keyless);
      const share = shares.get(partition);
      if (share) share.push(index);
      else shares.set(partition, [index]);
    }
    /** @type {(Delivery | undefined)[]} */
    const deliveries = records.map(() => undefined);
    try {
      for (const [partition, indices] of shares) {
        for (const piece of this.#pieces(indices, wires)) {
          const sent = await this.#sendPiece(partition, piece.map((index) => wires[index]));
          piece.forEach((index, at) => (deliveries[index] = sent[at]));
        }
      }
    } catch (error) {
      if (error instanceof PubsubError && deliveries.some((delivery) => delivery !== undefined)) {
        throw new PartlyPublished(deliveries, error);
      }
      throw error;
    }
    return /** @type {Delivery[]} */ (deliveries);
  }

  /**
   * @param {number[]} indices
   * @param {Record<string, unknown>[]} wires
   */
  *#pieces(indices, wires) {
    /** @type {number[]} */
    let piece = [];
    let size = 0;
    for (const index of indices) {
      const grown = this.#transport.settings.json.stringify(wires[index]).length;
      if (piece.length > 0 && (piece.length >= RECORDS_MAX || size + grown > CHARACTERS_MAX)) {
        yield piece;
        [piece, size] = [[], 0];
      }
      piece.push(index);
      size += grown;
    }
    if (piece.length > 0) yield piece;
  }

  /**
   * @param {number | undefined} partition
   * @param {Record<string, unknown>[]} wires
   */
  async #sendPiece(partition, wires) {
    const reply = await this.#send(partition, wires.length, { records: wires });
    const results = this.#transport.parse(reply).results ?? [];
    if (results.length !== wires.length) {
      throw new MalformedAnswer(reply.broker, `${wires.length} records were sent, ${results.length} were answered for`);
    }
    return results.map((/** @type {any} */ place) => this.#delivery(reply, place));
  }

  /** @param {Reply} reply @param {any} place @returns {Delivery} */
  #delivery(reply, place) {
    return {
      partition: Number(place.partition),
      offset: Number(place.offset),
      retries: reply.retries,
      perhapsTwice: !this.#idempotent && reply.unknownTries > 0,
    };
  }

  /**
   * Chooses a record's partition, if this producer is the one to choose.
   * @param {NewRecord} record
   * @param {number | undefined} keyless
   */
  async #place(record, keyless) {
    if (this.#options.partition !== undefined || !this.#idempotent) return this.#options.partition;
    if (record.key === undefined) return keyless ?? this.#nextTurn();
    return partitionOfKey(record.key, await this.#count());
  }

  async #nextTurn() {
    if (this.#options.partition !== undefined || !this.#idempotent) return this.#options.partition;
    const partitions = await this.#count();
    this.#turn += 1;
    return this.#turn % partitions;
  }

  async #count() {
    if (this.#partitions === 0) {
      const path = `/admin/topics/${encodeURIComponent(this.#topic)}`;
      const topic = await this.#transport.json({ method: 'GET', path });
      this.#partitions = Math.max(1, Number(topic.partition_count));
    }
    return this.#partitions;
  }

  /**
   * @param {number | undefined} partition
   * @param {number} count
   * @param {unknown} body
   * @returns {Promise<Reply>}
   */
  async #send(partition, count, body) {
    const { acks, commitTimeoutMs, deadlineMs } = this.#options;
    const request = {
      method: 'POST',
      path: `/topics/${encodeURIComponent(this.#topic)}/publish`,
      query: { acks, timeout_ms: commitTimeoutMs, partition },
      body,
      once: !this.#idempotent,
      patienceMs: commitTimeoutMs + ANSWER_SLACK_MS,
      deadlineMs,
    };
    if (!this.#idempotent || partition === undefined) return this.#transport.send(request);
    // What has no form in JSON must be refused before a sequence is taken for it.
    this.#transport.settings.json.stringify(body);
    const lane = this.#lanes.get(partition) ?? new Lane(this.#id);
    this.#lanes.set(partition, lane);
    return lane.inTurn(async () => {
      try {
        const reply = await this.#transport.send({ ...request, headers: lane.begin(count) });
        lane.stored(count);
        return reply;
      } catch (error) {
        if (error instanceof Refused && ['TOPIC_NOT_FOUND', 'PARTITION_NOT_FOUND'].includes(error.code)) this.#partitions = 0;
        if (error instanceof PubsubError && !(error instanceof OutcomeUnknown)) lane.refused();
        throw error;
      }
    });
  }
}
