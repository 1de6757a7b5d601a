// Waiting between tries: exponential, with jitter, a cap and a deadline.

/**
 * How long to wait between tries and for how long to go on trying, in milliseconds.
 * @typedef {object} RetryPolicy
 * @property {number} firstMs Upper end of the first wait.
 * @property {number} capMs Upper end of every later wait; the waits double until they reach it.
 * @property {number} deadlineMs No try begins later than this after the first one.
 */

/**
 * Gives up after 30 s: longer than an election and a session time-out together.
 * @type {RetryPolicy}
 */
export const RETRY = Object.freeze({ firstMs: 50, capMs: 1_000, deadlineMs: 30_000 });

/**
 * Returns the upper end of the wait before retry number `retry`, counted from 0.
 * @param {RetryPolicy} policy
 * @param {number} retry
 */
export function ceiling(policy, retry) {
  return Math.min(policy.firstMs * 2 ** Math.min(retry, 32), policy.capMs);
}

/** The tries of one operation. */
export class Backoff {
  #policy;
  #deadlineMs;
  #started = performance.now();
  #retries = 0;

  /** @param {RetryPolicy} policy @param {number} [deadlineMs] */
  constructor(policy, deadlineMs) {
    this.#policy = policy;
    this.#deadlineMs = deadlineMs ?? policy.deadlineMs;
  }

  /** The time since the operation began, ms. */
  get elapsed() {
    return performance.now() - this.#started;
  }

  /** The time that is left, ms; 0 once the deadline is over. */
  get left() {
    return Math.max(0, this.#deadlineMs - this.elapsed);
  }

  /**
   * Grants one more try and returns how long to wait before it; undefined when it would begin after the deadline. The wait is
   * random in the upper half of its range, so that clients that lost the same broker don't come back together.
   * @param {number} [atLeast]
   * @returns {number | undefined}
   */
  nextWait(atLeast = 0) {
    const most = ceiling(this.#policy, this.#retries);
    const wait = Math.max(most / 2 + (Math.random() * most) / 2, atLeast);
    if (wait >= this.left) return undefined;
    this.#retries += 1;
    return wait;
  }
}

/**
 * Waits; rejects at once when the signal is aborted.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const done = () => {
      signal?.removeEventListener('abort', aborted);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', aborted, { once: true });
  });
}
