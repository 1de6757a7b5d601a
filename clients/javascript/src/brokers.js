// Which broker to ask: a short list with one that is stuck to until it fails. Time is an argument, in milliseconds.

/** Most brokers that are remembered: an answer that named thousands would not be believed. */
export const BROKERS_MAX = 64;
/** A broker that failed is passed over for so long at first, twice as long with each further failure. */
const PENALTY_FIRST_MS = 250;
/** A broker that failed often is still tried this often: it may have come back. */
const PENALTY_CAP_MS = 5_000;

/**
 * Returns the address of a broker without a slash at the end; a bare `host:port` means plain HTTP.
 * @param {string} given
 * @returns {string}
 */
export function baseUrl(given) {
  const trimmed = given.trim();
  let url;
  try {
    url = new URL(trimmed.includes('://') ? trimmed : `http://${trimmed}`);
  } catch {
    url = undefined;
  }
  if (!url || !['http:', 'https:'].includes(url.protocol) || !url.hostname || url.search || url.hash || /\s/.test(trimmed)) {
    throw new TypeError(`${JSON.stringify(given.slice(0, 80))} is not a broker's address: write http://host:port`);
  }
  return url.href.replace(/\/+$/, '');
}

/**
 * Returns checked addresses of a list, or of a text with commas or blanks between them.
 * @param {string | Iterable<string>} given
 * @returns {string[]}
 */
export function brokerList(given) {
  const texts = typeof given === 'string' ? given.split(/[\s,]+/).filter((text) => text !== '') : [...given];
  if (texts.length === 0) {
    throw new TypeError('no broker was named: give at least one address such as http://127.0.0.1:8081');
  }
  return texts.map(baseUrl);
}

/** The brokers that a client knows, and the one that it sticks to. */
export class BrokerBook {
  /** @type {{ url: string, failures: number, usableFrom: number }[]} */
  #entries = [];
  #current = 0;

  /** @param {Iterable<string>} urls */
  constructor(urls) {
    this.learn(urls);
  }

  get size() {
    return this.#entries.length;
  }

  /** All known addresses. */
  get urls() {
    return this.#entries.map((entry) => entry.url);
  }

  /**
   * Adds addresses that are not known yet, behind the others; what is no address is passed over.
   * @param {Iterable<string>} urls
   */
  learn(urls) {
    for (const given of urls) {
      let url;
      try {
        url = baseUrl(given);
      } catch {
        continue;
      }
      if (this.#entries.length < BROKERS_MAX && !this.#entries.some((entry) => entry.url === url)) {
        this.#entries.push({ url, failures: 0, usableFrom: -Infinity });
      }
    }
  }

  /**
   * Returns the one that answered last, else the next that has not just failed, else the one that failed first.
   * @param {number} now
   * @returns {string}
   */
  pick(now) {
    const count = this.#entries.length;
    const order = Array.from({ length: count }, (_, step) => (this.#current + step) % count);
    const usable = order.find((at) => this.#entries[at].usableFrom <= now);
    const first = order.reduce((a, b) => (this.#entries[b].usableFrom < this.#entries[a].usableFrom ? b : a));
    this.#current = usable ?? first;
    return this.#entries[this.#current].url;
  }

  /**
   * Notes that a broker answered.
   * @param {string} url
   */
  succeeded(url) {
    const entry = this.#entries.find((known) => known.url === url);
    if (entry) Object.assign(entry, { failures: 0, usableFrom: -Infinity });
  }

  /**
   * Notes that a broker could not be reached or can't serve now, so that the next pick is another one.
   * @param {string} url
   * @param {number} now
   */
  failed(url, now) {
    const entry = this.#entries.find((known) => known.url === url);
    if (!entry) return;
    entry.usableFrom = now + Math.min(PENALTY_FIRST_MS * 2 ** Math.min(entry.failures, 16), PENALTY_CAP_MS);
    entry.failures += 1;
  }

  /**
   * Sticks to a broker from now on, if it is known.
   * @param {string} url
   */
  prefer(url) {
    const at = this.#entries.findIndex((known) => known.url === url);
    if (at >= 0) this.#current = at;
  }
}
