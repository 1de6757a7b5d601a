export type ConsumedRecord = import('./records.js').ConsumedRecord;
export type Transport = import('./transport.js').Transport;
export type StreamOptions = {
    /**
     * The group that shares the topic's partitions; without one every partition is read.
     */
    group?: string;
    /**
     * Who reads; required with a group.
     */
    consumer?: string;
    /**
     * Without one: behind what the group has finished.
     */
    start?: 'earliest' | 'latest' | number;
    /**
     * `auto` (default): the broker commits a record once the connection took a later event, whether
     * or not it was dealt with. `manual`: call `commit` after the work, so that every record is processed at least once.
     */
    commit?: 'auto' | 'manual';
    /**
     * Goes on behind this event of an earlier stream.
     */
    lastEventId?: string;
};
export type StreamEvent = {
    kind: string;
    data: any;
    id?: string;
    record?: ConsumedRecord;
};
/** A stream of records that survives its broker: `for await (const record of stream)`. */
export declare class Stream {
    #private;
    /** Where the stream stands: what `lastEventId` takes another one from there, at any broker. */
    get lastEventId(): string | undefined;
    /** The broker that serves the stream now. */
    get broker(): string;
    /** @returns {AsyncGenerator<ConsumedRecord, void>} */
    [Symbol.asyncIterator](): AsyncGenerator<ConsumedRecord, void>;
    /**
     * Returns everything that the stream tells, records included.
     * @returns {AsyncGenerator<StreamEvent, void>}
     */
    events(): AsyncGenerator<StreamEvent, void>;
    /**
     * Commits everything that was handed out, or one partition up to a record; for `commit: 'manual'`.
     * @param {{ partition: number, offset: number }} [record]
     * @returns {Promise<void>}
     */
    commit(record?: {
        partition: number;
        offset: number;
    }): Promise<void>;
    /**
     * Ends the stream, and a loop that waits for it, and leaves the group, so that others take its partitions over at once. What the
     * broker has not committed yet is read again by them; call `commit` before if it was dealt with. Only breaking out of a loop
     * closes the connection alone: iterating again goes on behind the last event.
     * @returns {Promise<void>}
     */
    close(): Promise<void>;
}
