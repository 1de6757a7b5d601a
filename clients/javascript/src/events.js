// The event stream format of the HTML standard, as far as brokers use it.

/**
 * One message of an event stream.
 * @typedef {{ event: string, data: string, id?: string, retryMs?: number }} Message
 */

/** Cuts a stream into messages. */
export class EventParser {
  #decoder = new TextDecoder();
  #rest = '';
  /** @type {string[]} */
  #lines = [];

  /**
   * Takes what came, and returns the messages that are whole now.
   * @param {Uint8Array} chunk
   * @returns {Generator<Message, void>}
   */
  *feed(chunk) {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const raw of lines) {
      const line = raw.replace(/\r$/, '');
      if (line !== '') {
        this.#lines.push(line);
        continue;
      }
      const message = messageOf(this.#lines.splice(0));
      if (message) yield message;
    }
  }
}

/**
 * @param {string[]} lines
 * @returns {Message | undefined}
 */
function messageOf(lines) {
  /** @type {Message} */
  const message = { event: '', data: '' };
  /** @type {string[]} */
  const data = [];
  let found = false;
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'id') message.id = value;
    else if (name === 'event') message.event = value;
    else if (name === 'data') data.push(value);
    else if (name === 'retry' && /^\d+$/.test(value)) message.retryMs = Number(value);
    else continue;
    found = true;
  }
  message.data = data.join('\n');
  return found ? message : undefined;
}
