export type Problem = {
    code: string;
    status: number;
    detail?: unknown;
    ambiguous?: boolean;
    retry_after_ms?: number;
    [member: string]: unknown;
};
/**
 * The body of an error answer (RFC 9457). `code` is stable and meant for programs.
 * @typedef {{ code: string, status: number, detail?: unknown, ambiguous?: boolean, retry_after_ms?: number, [member: string]: unknown }} Problem
 */
/** The base of every error of this package. */
export declare class PubsubError extends Error {
    /** @param {string} message @param {ErrorOptions} [options] */
    constructor(message: string, options?: ErrorOptions);
}
/** A broker said no, and asking again would not help. Nothing was done. Tell refusals apart by `code`. */
export declare class Refused extends PubsubError {
    /** The address of the broker. */
    broker: string;
    /** The whole body of the answer. */
    problem: Problem;
    /** Stable, for programs: `TOPIC_NOT_FOUND`, `GROUP_BUSY`, `MEMBER_FENCED` … */
    code: string;
    status: number;
    /** For people. */
    detail: string;
    /** @param {string} broker @param {Problem} problem */
    constructor(broker: string, problem: Problem);
}
/** No broker took the request before the deadline. Nothing was done. */
export declare class Unavailable extends PubsubError {
    tries: number;
    waitedMs: number;
    last: string;
    /** @param {number} tries @param {number} waitedMs @param {string} last */
    constructor(tries: number, waitedMs: number, last: string);
}
/** The request may or may not have been carried out. `requestId` names it in the logs of the brokers. */
export declare class OutcomeUnknown extends PubsubError {
    last: string;
    requestId: string;
    problem: Problem | undefined;
    code: string | undefined;
    /** @param {string} last @param {string} requestId @param {Problem} [problem] */
    constructor(last: string, requestId: string, problem?: Problem);
}
/** A broker's answer is not what this client understands. The request was carried out. */
export declare class MalformedAnswer extends PubsubError {
    broker: string;
    /** @param {string} broker @param {string} reason */
    constructor(broker: string, reason: string);
}
/** Some of many records were published before a request failed; its error is the `cause`. */
export declare class PartlyPublished extends PubsubError {
    /** One entry a record, in order; undefined for those that are not known to be published. */
    deliveries: (import("./records.js").Delivery | undefined)[];
    /** @param {(import('./records.js').Delivery | undefined)[]} deliveries @param {Error} cause */
    constructor(deliveries: (import('./records.js').Delivery | undefined)[], cause: Error);
}
/**
 * Returns the detail of a problem, which is a text, a list of fields or an object with a message, as a sentence.
 * @param {unknown} detail
 * @returns {string}
 */
export declare function detailText(detail: unknown): string;
