// What can go wrong. "No" and "perhaps" are different errors: only OutcomeUnknown and MalformedAnswer may have had an effect.

/**
 * The body of an error answer (RFC 9457). `code` is stable and meant for programs.
 * @typedef {{ code: string, status: number, detail?: unknown, ambiguous?: boolean, retry_after_ms?: number, [member: string]: unknown }} Problem
 */

/** The base of every error of this package. */
export class PubsubError extends Error {
  /** @param {string} message @param {ErrorOptions} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A broker said no, and asking again would not help. Nothing was done. Tell refusals apart by `code`. */
export class Refused extends PubsubError {
  /** @param {string} broker @param {Problem} problem */
  constructor(broker, problem) {
    const detail = detailText(problem.detail);
    super(`${detail} (${problem.code})`);
    /** The address of the broker. */
    this.broker = broker;
    /** The whole body of the answer. */
    this.problem = problem;
    /** Stable, for programs: `TOPIC_NOT_FOUND`, `GROUP_BUSY`, `MEMBER_FENCED` … */
    this.code = problem.code;
    this.status = problem.status;
    /** For people. */
    this.detail = detail;
  }
}

/** No broker took the request before the deadline. Nothing was done. */
export class Unavailable extends PubsubError {
  /** @param {number} tries @param {number} waitedMs @param {string} last */
  constructor(tries, waitedMs, last) {
    super(`no broker could take the request in ${tries} tries within ${(waitedMs / 1000).toFixed(1)} s; last: ${last}`);
    this.tries = tries;
    this.waitedMs = waitedMs;
    this.last = last;
  }
}

/** The request may or may not have been carried out. `requestId` names it in the logs of the brokers. */
export class OutcomeUnknown extends PubsubError {
  /** @param {string} last @param {string} requestId @param {Problem} [problem] */
  constructor(last, requestId, problem) {
    super(`the outcome of the request is not known: ${last} (request id ${requestId})`);
    this.last = last;
    this.requestId = requestId;
    this.problem = problem;
    this.code = problem?.code;
  }
}

/** A broker's answer is not what this client understands. The request was carried out. */
export class MalformedAnswer extends PubsubError {
  /** @param {string} broker @param {string} reason */
  constructor(broker, reason) {
    super(`the answer of ${broker} can't be read: ${reason}`);
    this.broker = broker;
  }
}

/** Some of many records were published before a request failed; its error is the `cause`. */
export class PartlyPublished extends PubsubError {
  /** @param {(import('./records.js').Delivery | undefined)[]} deliveries @param {Error} cause */
  constructor(deliveries, cause) {
    const done = deliveries.filter((delivery) => delivery !== undefined).length;
    super(`${done} of ${deliveries.length} records were published, then: ${cause.message}`, { cause });
    /** One entry a record, in order; undefined for those that are not known to be published. */
    this.deliveries = deliveries;
  }
}

/**
 * Returns the detail of a problem, which is a text, a list of fields or an object with a message, as a sentence.
 * @param {unknown} detail
 * @returns {string}
 */
export function detailText(detail) {
  if (typeof detail === 'string') return detail;
  if (Array.isArray(detail)) {
    return detail.map((field) => `${(field?.loc ?? []).join('.')}: ${field?.msg ?? ''}`).join('; ');
  }
  const message = /** @type {{ message?: unknown } | null | undefined} */ (detail)?.message;
  return message === undefined ? 'no reason was given' : String(message);
}
