export type RetryPolicy = {
    /**
     * Upper end of the first wait.
     */
    firstMs: number;
    /**
     * Upper end of every later wait; the waits double until they reach it.
     */
    capMs: number;
    /**
     * No try begins later than this after the first one.
     */
    deadlineMs: number;
};
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
export declare const RETRY: RetryPolicy;
/**
 * Returns the upper end of the wait before retry number `retry`, counted from 0.
 * @param {RetryPolicy} policy
 * @param {number} retry
 */
export declare function ceiling(policy: RetryPolicy, retry: number): number;
/** The tries of one operation. */
export declare class Backoff {
    #private;
    /** @param {RetryPolicy} policy @param {number} [deadlineMs] */
    constructor(policy: RetryPolicy, deadlineMs?: number);
    /** The time since the operation began, ms. */
    get elapsed(): number;
    /** The time that is left, ms; 0 once the deadline is over. */
    get left(): number;
    /**
     * Grants one more try and returns how long to wait before it; undefined when it would begin after the deadline. The wait is
     * random in the upper half of its range, so that clients that lost the same broker don't come back together.
     * @param {number} [atLeast]
     * @returns {number | undefined}
     */
    nextWait(atLeast?: number): number | undefined;
}
/**
 * Waits; rejects at once when the signal is aborted.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export declare function pause(ms: number, signal?: AbortSignal): Promise<void>;
