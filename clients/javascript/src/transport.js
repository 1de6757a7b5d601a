// One request to whichever broker answers: rotation, retries, time limits, and outcomes told apart.
//
// A try goes to the broker that answered last. Brokers that can't be reached or can't serve now are passed over at once; only
// after each was tried is there a wait. A try whose outcome is not known is repeated only if the request may be made twice.

import { BrokerBook, baseUrl } from './brokers.js';
import { MalformedAnswer, OutcomeUnknown, Refused, Unavailable, detailText } from './errors.js';
import { Backoff, RETRY, pause } from './retry.js';

/** @typedef {import('./errors.js').Problem} Problem */

/**
 * How JSON is read and written. Give others to keep integers past 2^53, which `JSON.parse` rounds.
 * @typedef {{ parse: (text: string) => any, stringify: (value: unknown) => string }} JsonForm
 */

/**
 * How a client reaches its brokers.
 * @typedef {object} Settings
 * @property {number} answerTimeoutMs Longest wait for an answer that is no long-poll.
 * @property {import('./retry.js').RetryPolicy} retry Between tries.
 * @property {JsonForm} json How JSON is read and written.
 * @property {typeof globalThis.fetch} fetch What makes requests.
 */

/**
 * One request, before it is known which broker it will go to.
 * @typedef {object} Request
 * @property {string} method
 * @property {string} path
 * @property {Record<string, string | number | boolean | undefined>} [query]
 * @property {unknown} [body]
 * @property {Record<string, string>} [headers]
 * @property {boolean} [once] Whether doing it twice is not the same as doing it once.
 * @property {number} [patienceMs]
 * @property {number} [deadlineMs]
 * @property {AbortSignal} [signal]
 * @property {boolean} [stream] Whether the body goes on and on.
 */

/**
 * An answer of success. `response` is there for a stream, `text` for everything else.
 * @typedef {{ broker: string, text: string, response?: Response, retries: number, unknownTries: number }} Reply
 */

/**
 * What a try that got no answer to keep means. `no`: nothing was done and no try will change that. `again`: another broker may do
 * it. `slow`: the same one will do it later. `unknown`: it may have been done.
 * @typedef {{ verdict: 'no' | 'again' | 'slow' | 'unknown', what: string, problem?: Problem }} Failure
 */

const FOREIGN_TEXT_MAX = 200;
/** Causes of a failed fetch that leave no doubt: the connection was never made. Browsers tell no cause, so there all is doubt. */
const NOT_SENT = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'];

/**
 * Writes JSON, and refuses what would silently become something else.
 * @type {JsonForm}
 */
export const JSON_FORM = {
  parse: (text) => JSON.parse(text),
  stringify: (value) =>
    JSON.stringify(value, (_, part) => {
      if (typeof part === 'number' && !Number.isFinite(part)) throw new TypeError(`JSON has no form for ${part}`);
      return part;
    }),
};

/** @type {Settings} */
export const SETTINGS = {
  answerTimeoutMs: 10_000,
  retry: RETRY,
  json: JSON_FORM,
  fetch: (input, init) => globalThis.fetch(input, init),
};

/**
 * Decides what an answer other than success means. A broker says itself whether the outcome is known. Where it does not (another
 * version, a proxy in between), 5xx means not known, but for 503: it is answered before anything is done.
 * @param {number} status
 * @param {Partial<Problem>} problem
 * @returns {Failure['verdict']}
 */
export function judge(status, problem) {
  if (problem.ambiguous === true) return 'unknown';
  if (status === 429) return 'slow';
  // Out of order: a leader that was replaced and does not know it lacks what its successor took.
  if (status === 409 && problem.code === 'OUT_OF_ORDER') return 'again';
  if ([503, 421, 425].includes(status)) return 'again';
  if ([502, 504].includes(status) && problem.ambiguous === false) return 'again';
  return status >= 500 && status !== 507 && problem.ambiguous === undefined ? 'unknown' : 'no';
}

/** Sends requests to a set of brokers. */
export class Transport {
  #prefix = randomId().replaceAll('-', '').slice(0, 16);
  #number = 0;

  /** @param {BrokerBook} book @param {Settings} settings */
  constructor(book, settings) {
    this.book = book;
    this.settings = settings;
  }

  /** Returns a transport that picks and learns brokers on its own. */
  fork() {
    return new Transport(new BrokerBook(this.book.urls), this.settings);
  }

  /**
   * Asks another broker next.
   * @param {string} broker
   */
  avoid(broker) {
    this.book.failed(broker, performance.now());
  }

  /**
   * Sends a request and returns the body of the answer.
   * @param {Request} request
   * @returns {Promise<any>}
   */
  async json(request) {
    return this.parse(await this.send(request));
  }

  /** @param {Reply} reply @returns {any} */
  parse(reply) {
    try {
      return this.settings.json.parse(reply.text);
    } catch (error) {
      throw new MalformedAnswer(reply.broker, String(error));
    }
  }

  /**
   * Sends a request to one broker after the other until one answers; throws what the outcome was otherwise.
   * @param {Request} request
   * @returns {Promise<Reply>}
   */
  async send(request) {
    const { retry } = this.settings;
    const backoff = new Backoff(retry, request.deadlineMs);
    const requestId = `${this.#prefix}-${(this.#number += 1)}`;
    const body = request.body === undefined ? undefined : this.settings.json.stringify(request.body);
    let [tries, unknownTries, asked] = [0, 0, 0];
    for (;;) {
      const broker = this.book.pick(performance.now());
      const result = await this.#attempt(broker, request, body, requestId);
      if (!('verdict' in result)) {
        this.book.succeeded(broker);
        return { broker, retries: tries, unknownTries, ...result };
      }
      tries += 1;
      const { verdict, what, problem } = result;
      if (verdict === 'no' && unknownTries === 0 && problem) throw new Refused(broker, problem);
      if (verdict === 'no' || (verdict === 'unknown' && request.once)) throw new OutcomeUnknown(what, requestId, problem);
      if (verdict === 'unknown') unknownTries += 1;
      let atLeast = problem?.retry_after_ms ?? 0;
      if (verdict !== 'slow') {
        atLeast = Math.min(atLeast, retry.capMs);
        this.avoid(broker);
        asked += 1;
        if (asked < this.book.size && backoff.left > 0) continue;
      }
      asked = 0;
      const wait = backoff.nextWait(atLeast);
      if (wait === undefined) {
        if (unknownTries > 0 && request.method !== 'GET') throw new OutcomeUnknown(what, requestId, problem);
        throw new Unavailable(tries, backoff.elapsed, what);
      }
      await pause(wait, request.signal);
    }
  }

  /**
   * @param {string} broker
   * @param {Request} request
   * @param {string | undefined} body
   * @param {string} requestId
   * @returns {Promise<Failure | { text: string, response?: Response }>}
   */
  async #attempt(broker, request, body, requestId) {
    request.signal?.throwIfAborted();
    const abort = new AbortController();
    const giveUp = () => abort.abort(request.signal?.reason);
    request.signal?.addEventListener('abort', giveUp, { once: true });
    const timer = setTimeout(() => abort.abort(), request.patienceMs ?? this.settings.answerTimeoutMs);
    /** @type {Record<string, string>} */
    const headers = { 'x-request-id': requestId, ...request.headers };
    if (body !== undefined) headers['content-type'] = 'application/json';
    try {
      const url = `${broker}${request.path}${queryOf(request.query)}`;
      // A browser must not answer from its cache.
      const init = { method: request.method, headers, body, signal: abort.signal, cache: 'no-store', redirect: 'error' };
      const response = await this.settings.fetch(url, /** @type {RequestInit} */ (init));
      if (response.ok && request.stream) return { text: '', response };
      const text = await response.text();
      return response.ok ? { text } : this.#failure(broker, response, text);
    } catch (error) {
      // What the caller aborted is no failure of the broker.
      request.signal?.throwIfAborted();
      const late = abort.signal.aborted;
      const cause = /** @type {{ cause?: { code?: string, message?: string } }} */ (error).cause;
      const what = late ? 'no answer in time' : (cause?.message ?? String(error));
      return { verdict: !late && NOT_SENT.includes(cause?.code ?? '') ? 'again' : 'unknown', what: `${broker}: ${what}` };
    } finally {
      clearTimeout(timer);
      // A stream goes on until its reader ends it.
      if (!request.stream) request.signal?.removeEventListener('abort', giveUp);
    }
  }

  /**
   * @param {string} broker
   * @param {Response} response
   * @param {string} text
   * @returns {Failure}
   */
  #failure(broker, response, text) {
    const problem = problemOf(response, text);
    if (problem.code === 'NOT_LEADER' && typeof problem.leader_api_base === 'string') {
      this.book.learn([problem.leader_api_base]);
      this.book.prefer(baseUrl(problem.leader_api_base));
    }
    const what = `${broker}: ${detailText(problem.detail)} (${response.status} ${problem.code})`;
    return { verdict: judge(response.status, problem), what, problem };
  }
}

/**
 * Reads an error answer; one that is no problem comes from something between client and broker.
 * @param {Response} response
 * @param {string} text
 * @returns {Problem}
 */
function problemOf(response, text) {
  let problem;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = undefined;
  }
  if (typeof problem?.code !== 'string') {
    const shown = text.slice(0, FOREIGN_TEXT_MAX).trim();
    problem = { code: 'OTHER', detail: shown || `status ${response.status} without a reason` };
  }
  problem.status = response.status;
  const after = Number(response.headers.get('retry-after') ?? NaN);
  if (problem.retry_after_ms === undefined && Number.isFinite(after)) problem.retry_after_ms = after * 1_000;
  return problem;
}

/** @param {Request['query']} query */
function queryOf(query) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text === '' ? '' : `?${text}`;
}

/**
 * Returns a new UUID. Without the platform's own, as on a page without HTTPS, chance of lesser quality must do.
 * @returns {string}
 */
export function randomId() {
  const own = globalThis.crypto;
  if (typeof own?.randomUUID === 'function') return own.randomUUID();
  const bytes = Uint8Array.from({ length: 16 }, () => Math.floor(Math.random() * 256));
  own?.getRandomValues?.(bytes);
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
