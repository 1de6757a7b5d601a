export type ConsumedRecord = import('./records.js').ConsumedRecord;
export type Transport = import('./transport.js').Transport;
export type ConsumerOptions = {
    /**
     * The group that shares the topic's partitions; without one every partition is read.
     */
    group?: string;
    /**
     * Who reads; required with a group.
     */
    consumer?: string;
    /**
     * `committed` (default) is behind what the group has finished.
     */
    start?: 'committed' | 'earliest' | 'latest' | number;
    /**
     * Takes records as finished, and commits them, once the next ones are asked for (default).
     */
    autoCommit?: boolean;
    /**
     * Most records of one poll, at most 1000.
     */
    maxRecords?: number;
    /**
     * Longest wait of one poll; shorter if the group's session asks for it.
     */
    waitMs?: number;
    /**
     * Waits for a partition to become free instead of failing with `GROUP_BUSY`.
     */
    standby?: boolean;
    /**
     * Broker that records should come from, if it holds the partition.
     */
    preferReplica?: number;
};
export type Place = {
    next: number;
    committed: number;
    handed: number;
    finished: number;
};
/** Reads one topic: `for await (const record of consumer)`, or `poll`. Close it in the end, so that it leaves its group at once. */
export declare class Consumer {
    #private;
    /** The partitions that this consumer may read now. */
    get partitions(): number[];
    /** The brokers known now, those that answers named included. */
    get brokers(): string[];
    /**
     * Waits for records, at most the configured time. With `autoCommit` those of the poll before are committed first. The list is
     * empty when none came in time, and once before partitions go to other members: what was finished in them can be committed until
     * the next call. After an error the call can be made again; the place is kept.
     * @returns {Promise<ConsumedRecord[]>}
     */
    poll(): Promise<ConsumedRecord[]>;
    /** @returns {AsyncGenerator<ConsumedRecord, void>} */
    [Symbol.asyncIterator](): AsyncGenerator<ConsumedRecord, void>;
    /**
     * Commits everything that was handed out, or one partition up to a record. Throws `MEMBER_FENCED` when the partition has another
     * consumer by now; nothing was committed there.
     * @param {{ partition: number, offset: number }} [record]
     * @returns {Promise<void>}
     */
    commit(record?: {
        partition: number;
        offset: number;
    }): Promise<void>;
    /**
     * Reads on from an offset in a partition; records before it may come again.
     * @param {number} partition
     * @param {number} offset
     */
    seek(partition: number, offset: number): void;
    /**
     * Leaves the group, so that others take its partitions over at once, and ends a loop or poll that waits. With `autoCommit` the
     * records before the one at hand are committed; that one was perhaps not dealt with, so call `commit` before if it was.
     * @returns {Promise<void>}
     */
    close(): Promise<void>;
}
