// Consuming by long-poll: subscribe, poll, commit, and go on with another broker when one fails.
//
// A consumer keeps its own place in every partition and always asks for records from there, so that whichever broker answers,
// records come in order of offset and none comes twice in one session. What is kept beyond a session is only what was committed.

import { Refused } from './errors.js';
import { fromWire } from './records.js';
import { pause } from './retry.js';

/**
 * @typedef {import('./records.js').ConsumedRecord} ConsumedRecord
 * @typedef {import('./transport.js').Transport} Transport
 */

/**
 * How a topic is consumed.
 * @typedef {object} ConsumerOptions
 * @property {string} [group] The group that shares the topic's partitions; without one every partition is read.
 * @property {string} [consumer] Who reads; required with a group.
 * @property {'committed' | 'earliest' | 'latest' | number} [start] `committed` (default) is behind what the group has finished.
 * @property {boolean} [autoCommit] Takes records as finished, and commits them, once the next ones are asked for (default).
 * @property {number} [maxRecords] Most records of one poll, at most 1000.
 * @property {number} [waitMs] Longest wait of one poll; shorter if the group's session asks for it.
 * @property {boolean} [standby] Waits for a partition to become free instead of failing with `GROUP_BUSY`.
 * @property {number} [preferReplica] Broker that records should come from, if it holds the partition.
 */

/**
 * A place in one partition: what is read next, the last record that the group has finished as far as known, the last one that was
 * handed out, and the last one that the caller is done with (−1: none).
 * @typedef {{ next: number, committed: number, handed: number, finished: number }} Place
 */

/** How much longer than the long-poll itself an answer is waited for. */
const ANSWER_SLACK_MS = 3_000;
/** A member without partitions asks this often whether one has become free. */
const STANDBY_PAUSE_MS = 1_000;
/** Brokers that lag behind may not know a topic or an offset yet: so many refusals are taken for that. */
const REFUSALS_MIN = 3;
const STALE = ['TOPIC_NOT_FOUND', 'PARTITION_NOT_FOUND', 'OFFSET_OUT_OF_RANGE'];

/** @param {unknown} error @param {string[]} codes @returns {error is Refused} */
function refusedWith(error, codes) {
  return error instanceof Refused && codes.includes(error.code);
}

/** Reads one topic: `for await (const record of consumer)`, or `poll`. Close it in the end, so that it leaves its group at once. */
export class Consumer {
  #transport;
  #topic;
  #options;
  /** @type {number[]} */
  #assigned = [];
  /** @type {Map<number, Place>} */
  #places = new Map();
  /** @type {ConsumedRecord[]} */
  #waiting = [];
  #joined = false;
  #abort = new AbortController();
  #refusals = 0;
  /** As the coordinator told it last. @type {number | undefined} */
  #memberEpoch;
  #sessionMs = 0;
  #renewedAt = 0;
  /** Partitions are to be given up: the coordinator does not know yet that they are not read any more. */
  #releasing = false;
  /** An answer told of partitions that this reader does not know of. */
  #outdated = false;

  /** @internal @param {Transport} transport @param {string} topic @param {ConsumerOptions} options */
  constructor(transport, topic, options) {
    if (options.group !== undefined && options.consumer === undefined) {
      throw new TypeError('a group was named without the consumer that reads for it');
    }
    const start = options.start ?? 'committed';
    if (typeof start === 'string' && !['committed', 'earliest', 'latest'].includes(start)) {
      throw new TypeError(`start is ${start}: use committed, earliest, latest or an offset`);
    }
    this.#transport = transport;
    this.#topic = topic;
    this.#options = { autoCommit: true, maxRecords: 500, waitMs: 15_000, standby: false, ...options, start };
  }

  /** The partitions that this consumer may read now. */
  get partitions() {
    return [...this.#assigned];
  }

  /** The brokers known now, those that answers named included. */
  get brokers() {
    return this.#transport.book.urls;
  }

  /**
   * Waits for records, at most the configured time. With `autoCommit` those of the poll before are committed first. The list is
   * empty when none came in time, and once before partitions go to other members: what was finished in them can be committed until
   * the next call. After an error the call can be made again; the place is kept.
   * @returns {Promise<ConsumedRecord[]>}
   */
  async poll() {
    this.#finish();
    if (this.#waiting.length === 0) {
      await this.#autoCommit();
      this.#waiting = await this.#fetch();
    }
    const records = this.#waiting.splice(0);
    for (const record of records) this.#handOut(record);
    return records;
  }

  /** @returns {AsyncGenerator<ConsumedRecord, void>} */
  async *[Symbol.asyncIterator]() {
    while (!this.#abort.signal.aborted) {
      this.#finish();
      await this.#keepWaiting();
      while (this.#waiting.length === 0) {
        await this.#autoCommit();
        try {
          this.#waiting = await this.#fetch();
        } catch (error) {
          // Closing ends the loop.
          if (this.#abort.signal.aborted) return;
          throw error;
        }
      }
      const record = /** @type {ConsumedRecord} */ (this.#waiting.shift());
      this.#handOut(record);
      yield record;
    }
  }

  /**
   * Commits everything that was handed out, or one partition up to a record. Throws `MEMBER_FENCED` when the partition has another
   * consumer by now; nothing was committed there.
   * @param {{ partition: number, offset: number }} [record]
   * @returns {Promise<void>}
   */
  async commit(record) {
    if (record) return this.#commitTo(record.partition, record.offset);
    this.#finish();
    for (const [partition, place] of this.#places) {
      if (place.finished > place.committed) await this.#commitTo(partition, place.finished);
    }
  }

  /**
   * Reads on from an offset in a partition; records before it may come again.
   * @param {number} partition
   * @param {number} offset
   */
  seek(partition, offset) {
    this.#waiting = this.#waiting.filter((record) => record.partition !== partition);
    const committed = this.#places.get(partition)?.committed ?? -1;
    this.#places.set(partition, { next: offset, committed, handed: -1, finished: -1 });
  }

  /**
   * Leaves the group, so that others take its partitions over at once, and ends a loop or poll that waits. With `autoCommit` the
   * records before the one at hand are committed; that one was perhaps not dealt with, so call `commit` before if it was.
   * @returns {Promise<void>}
   */
  async close() {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort(new DOMException('the consumer was closed', 'AbortError'));
    await this.#autoCommit();
    if (this.#options.group === undefined || !this.#joined) return;
    const body = { topic: this.#topic, ...this.#reader() };
    await this.#transport.json({ method: 'POST', path: '/unsubscribe', body });
  }

  /** Takes every record that was handed out as finished. */
  #finish() {
    for (const place of this.#places.values()) place.finished = Math.max(place.finished, place.handed);
  }

  /** @param {ConsumedRecord} record */
  #handOut(record) {
    const place = this.#places.get(record.partition);
    if (place) place.handed = record.offset;
  }

  /** Commits what is finished, as nobody asked for it: a partition that went elsewhere is left to its new reader. */
  async #autoCommit() {
    if (!this.#options.autoCommit || this.#options.consumer === undefined) return;
    for (const [partition, place] of this.#places) {
      if (place.finished <= place.committed) continue;
      try {
        await this.#commitTo(partition, place.finished);
      } catch (error) {
        if (!refusedWith(error, ['MEMBER_FENCED'])) throw error;
        place.finished = place.handed = -1;
      }
    }
  }

  /** @param {number} partition @param {number} offset */
  async #commitTo(partition, offset) {
    const body = { topic: this.#topic, partition, offset, ...this.#reader() };
    const answer = await this.#transport.json({ method: 'POST', path: '/commit', body });
    const place = this.#places.get(partition);
    if (!place) return;
    place.committed = Math.max(Number(answer.committed), offset);
    place.finished = Math.max(place.finished, offset);
  }

  #reader() {
    return { group_id: this.#options.group, consumer_id: this.#options.consumer, member_epoch: this.#memberEpoch };
  }

  #renewalDue() {
    const late = this.#sessionMs > 0 && performance.now() - this.#renewedAt > this.#sessionMs / 3;
    return this.#releasing || this.#outdated || late;
  }

  /** Renews the membership if it is time, and keeps those of the waiting records that are still this reader's to handle. */
  async #keepWaiting() {
    if (this.#waiting.length === 0 || !this.#renewalDue()) return;
    await this.#join(false);
    const gone = this.#waiting.filter((record) => !this.#assigned.includes(record.partition));
    this.#waiting = this.#waiting.filter((record) => this.#assigned.includes(record.partition));
    for (const record of gone.reverse()) {
      // They were not handed out: they are read again should their partition come back.
      const place = this.#places.get(record.partition);
      if (place) place.next = record.offset;
    }
  }

  /**
   * Waits for records. Before partitions go to other members there are none once: what is finished can be committed until the next
   * call, which gives them up.
   * @returns {Promise<ConsumedRecord[]>}
   */
  async #fetch() {
    const { signal } = this.#abort;
    if (!this.#joined) await this.#join(true);
    for (;;) {
      if (this.#renewalDue()) {
        await this.#join(false);
        if (this.#releasing) return [];
      }
      if (this.#assigned.length === 0) {
        await pause(STANDBY_PAUSE_MS, signal);
        await this.#join(false);
        if (this.#assigned.length === 0) return [];
      }
      try {
        const reply = await this.#transport.send(this.#request());
        this.#refusals = 0;
        return this.#take(this.#transport.parse(reply));
      } catch (error) {
        await this.#refused(error);
      }
    }
  }

  #request() {
    const { waitMs, maxRecords, group, consumer, preferReplica } = this.#options;
    const wait = this.#sessionMs > 0 ? Math.min(waitMs, this.#sessionMs / 3) : waitMs;
    const places = this.#assigned.map((partition) => `${partition}:${this.#places.get(partition)?.next ?? 0}`);
    return {
      method: 'GET',
      path: '/poll',
      query: {
        topic: this.#topic,
        partition: this.#assigned.length === 1 ? this.#assigned[0] : undefined,
        from_offset: places.join(','),
        max_records: maxRecords,
        timeout_ms: Math.round(wait),
        group_id: group,
        consumer_id: consumer,
        member_epoch: this.#memberEpoch,
        prefer_replica: preferReplica,
      },
      patienceMs: wait + ANSWER_SLACK_MS,
      signal: this.#abort.signal,
    };
  }

  /** @param {any} body */
  #take(body) {
    const records = [];
    for (const wire of body.records) {
      const record = fromWire(this.#topic, wire);
      const place = this.#places.get(record.partition);
      if (!place || !this.#assigned.includes(record.partition)) {
        // It was just assigned, and is read once its start is known.
        this.#outdated = true;
      } else if (record.offset >= place.next) {
        place.next = record.offset + 1;
        records.push(record);
      }
    }
    for (const { partition, next_offset: next } of body.partitions ?? []) {
      // Compaction and retention leave offsets without records behind; the broker says where the next ones are.
      const place = this.#places.get(partition);
      if (place && this.#assigned.includes(partition)) place.next = Math.max(place.next, next);
    }
    return records;
  }

  /**
   * Decides what a poll's failure means; returns to go on.
   * @param {unknown} error
   */
  async #refused(error) {
    const { firstMs } = this.#transport.settings.retry;
    if (refusedWith(error, ['MEMBER_FENCED', 'GROUP_BUSY']) && this.#options.group !== undefined) {
      this.#forgetMembership();
      // A coordinator that is just taking over may fence and admit in turns.
      await pause(firstMs, this.#abort.signal);
      return this.#join(false);
    }
    if (!refusedWith(error, STALE)) throw error;
    this.#refusals += 1;
    if (this.#refusals >= Math.max(REFUSALS_MIN, this.#transport.book.size)) {
      this.#refusals = 0;
      throw error;
    }
    this.#transport.avoid(error.broker);
    await pause(firstMs, this.#abort.signal);
  }

  #forgetMembership() {
    this.#memberEpoch = undefined;
    this.#releasing = false;
    this.#assigned = [];
  }

  /**
   * Takes or renews the membership, and learns which partitions are to be read.
   * @param {boolean} first
   */
  async #join(first) {
    const grouped = this.#options.group !== undefined;
    const answer = await this.#subscribed();
    this.#joined = true;
    this.#transport.book.learn((answer.brokers ?? []).map((/** @type {any} */ broker) => broker.api_base));
    this.#renewedAt = performance.now();
    this.#outdated = false;
    this.#sessionMs = grouped ? Number(answer.session_timeout_ms ?? 0) : 0;
    const before = this.#assigned;
    this.#assigned = [];
    const parts = answer.partitions?.length || grouped ? (answer.partitions ?? []) : [{ ...answer, partition: 0 }];
    /** @type {number[]} */
    const assigned = [];
    for (const part of parts) {
      if (!before.includes(part.partition)) this.#put(part.partition, await this.#startOf(part, first), part.committed);
      assigned.push(part.partition);
    }
    this.#assigned = assigned;
    this.#releasing = before.some((partition) => !assigned.includes(partition));
    this.#memberEpoch = grouped ? Number(answer.member_epoch ?? 0) : undefined;
  }

  /** @returns {Promise<any>} */
  async #subscribed() {
    const signal = this.#abort.signal;
    for (;;) {
      const owned = this.#memberEpoch === undefined ? undefined : this.#assigned;
      const body = { topic: this.#topic, standby: this.#options.standby, owned, ...this.#reader() };
      try {
        return await this.#transport.json({ method: 'POST', path: '/subscribe', body, signal });
      } catch (error) {
        // A membership that ended is begun anew, holding nothing.
        if (this.#memberEpoch === undefined || !refusedWith(error, ['MEMBER_FENCED'])) throw error;
        this.#forgetMembership();
      }
    }
  }

  /** @param {any} part @param {boolean} first @returns {Promise<number>} */
  async #startOf(part, first) {
    const { start } = this.#options;
    if (start === 'latest' && (first || part.committed < 0)) return this.#latest(part.partition);
    if (first && start === 'earliest') return 0;
    if (first && typeof start === 'number') return start;
    // The group went on from the configured start when it had the partition before.
    return Number(part.start_offset);
  }

  /**
   * Goes to the start of a partition that was just assigned, but never before what this session has returned.
   * @param {number} partition
   * @param {number} start
   * @param {number} committed
   */
  #put(partition, start, committed) {
    const place = this.#places.get(partition);
    if (!place || start > place.next) this.#places.set(partition, { next: start, committed, handed: -1, finished: -1 });
    else place.committed = committed;
  }

  /** @param {number} partition @returns {Promise<number>} */
  async #latest(partition) {
    const path = `/topics/${encodeURIComponent(this.#topic)}/records`;
    const query = { partition, from: 'latest', max_records: 1, wait_ms: 0 };
    const answer = await this.#transport.json({ method: 'GET', path, query, signal: this.#abort.signal });
    return Number(answer.high_watermark);
  }
}
