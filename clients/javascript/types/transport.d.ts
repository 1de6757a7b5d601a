import { BrokerBook } from './brokers.js';
export type Problem = import('./errors.js').Problem;
export type JsonForm = {
    parse: (text: string) => any;
    stringify: (value: unknown) => string;
};
export type Settings = {
    /**
     * Longest wait for an answer that is no long-poll.
     */
    answerTimeoutMs: number;
    /**
     * Between tries.
     */
    retry: import('./retry.js').RetryPolicy;
    /**
     * How JSON is read and written.
     */
    json: JsonForm;
    /**
     * What makes requests.
     */
    fetch: typeof globalThis.fetch;
};
export type Request = {
    method: string;
    path: string;
    query?: Record<string, string | number | boolean | undefined>;
    body?: unknown;
    headers?: Record<string, string>;
    /**
     * Whether doing it twice is not the same as doing it once.
     */
    once?: boolean;
    patienceMs?: number;
    deadlineMs?: number;
    signal?: AbortSignal;
    /**
     * Whether the body goes on and on.
     */
    stream?: boolean;
};
export type Reply = {
    broker: string;
    text: string;
    response?: Response;
    retries: number;
    unknownTries: number;
};
export type Failure = {
    verdict: 'no' | 'again' | 'slow' | 'unknown';
    what: string;
    problem?: Problem;
};
/**
 * Writes JSON, and refuses what would silently become something else.
 * @type {JsonForm}
 */
export declare const JSON_FORM: JsonForm;
/** @type {Settings} */
export declare const SETTINGS: Settings;
/**
 * Decides what an answer other than success means. A broker says itself whether the outcome is known. Where it does not (another
 * version, a proxy in between), 5xx means not known, but for 503: it is answered before anything is done.
 * @param {number} status
 * @param {Partial<Problem>} problem
 * @returns {Failure['verdict']}
 */
export declare function judge(status: number, problem: Partial<Problem>): Failure['verdict'];
/** Sends requests to a set of brokers. */
export declare class Transport {
    #private;
    book: BrokerBook;
    settings: Settings;
    /** @param {BrokerBook} book @param {Settings} settings */
    constructor(book: BrokerBook, settings: Settings);
    /** Returns a transport that picks and learns brokers on its own. */
    fork(): Transport;
    /**
     * Asks another broker next.
     * @param {string} broker
     */
    avoid(broker: string): void;
    /**
     * Sends a request and returns the body of the answer.
     * @param {Request} request
     * @returns {Promise<any>}
     */
    json(request: Request): Promise<any>;
    /** @param {Reply} reply @returns {any} */
    parse(reply: Reply): any;
    /**
     * Sends a request to one broker after the other until one answers; throws what the outcome was otherwise.
     * @param {Request} request
     * @returns {Promise<Reply>}
     */
    send(request: Request): Promise<Reply>;
}
/**
 * Returns a new UUID. Without the platform's own, as on a page without HTTPS, chance of lesser quality must do.
 * @returns {string}
 */
export declare function randomId(): string;
