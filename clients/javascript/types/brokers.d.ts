/** Most brokers that are remembered: an answer that named thousands would not be believed. */
export declare const BROKERS_MAX = 64;
/**
 * Returns the address of a broker without a slash at the end; a bare `host:port` means plain HTTP.
 * @param {string} given
 * @returns {string}
 */
export declare function baseUrl(given: string): string;
/**
 * Returns checked addresses of a list, or of a text with commas or blanks between them.
 * @param {string | Iterable<string>} given
 * @returns {string[]}
 */
export declare function brokerList(given: string | Iterable<string>): string[];
/** The brokers that a client knows, and the one that it sticks to. */
export declare class BrokerBook {
    #private;
    /** @param {Iterable<string>} urls */
    constructor(urls: Iterable<string>);
    get size(): number;
    /** All known addresses. */
    get urls(): string[];
    /**
     * Adds addresses that are not known yet, behind the others; what is no address is passed over.
     * @param {Iterable<string>} urls
     */
    learn(urls: Iterable<string>): void;
    /**
     * Returns the one that answered last, else the next that has not just failed, else the one that failed first.
     * @param {number} now
     * @returns {string}
     */
    pick(now: number): string;
    /**
     * Notes that a broker answered.
     * @param {string} url
     */
    succeeded(url: string): void;
    /**
     * Notes that a broker could not be reached or can't serve now, so that the next pick is another one.
     * @param {string} url
     * @param {number} now
     */
    failed(url: string, now: number): void;
    /**
     * Sticks to a broker from now on, if it is known.
     * @param {string} url
     */
    prefer(url: string): void;
}
