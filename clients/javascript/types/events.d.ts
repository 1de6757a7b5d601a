export type Message = {
    event: string;
    data: string;
    id?: string;
    retryMs?: number;
};
/**
 * One message of an event stream.
 * @typedef {{ event: string, data: string, id?: string, retryMs?: number }} Message
 */
/** Cuts a stream into messages. */
export declare class EventParser {
    #private;
    /**
     * Takes what came, and returns the messages that are whole now.
     * @param {Uint8Array} chunk
     * @returns {Generator<Message, void>}
     */
    feed(chunk: Uint8Array): Generator<Message, void>;
}
