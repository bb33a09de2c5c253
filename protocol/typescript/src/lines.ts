// Splits bytes into lines. A line longer than the limit is reported, and dropped without being kept.

/** The longest accepted line: an answer with a large inline image is below 8 MiB, a batch's answers may be longer. */
export const MAX_LINE_BYTES = 64 * 1024 * 1024;

export class LineSplitter {
  readonly #limit: number;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #parts: Uint8Array[] = [];
  #length = 0;

  constructor(limit: number = MAX_LINE_BYTES) {
    this.#limit = limit;
  }

  /** Returns the lines that are now complete, without their endings; undefined for one that is too long or not UTF-8. */
  *feed(chunk: Uint8Array): Generator<string | undefined> {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      this.#keep(chunk.subarray(start, end));
      start = end + 1;
      yield this.#line();
    }
    this.#keep(chunk.subarray(start));
  }

  #keep(part: Uint8Array): void {
    this.#length += part.length;
    if (this.#length > this.#limit) this.#parts = [];
    else if (part.length > 0) this.#parts.push(part);
  }

  #line(): string | undefined {
    const [parts, length] = [this.#parts, this.#length];
    this.#parts = [];
    this.#length = 0;
    if (length > this.#limit) return undefined;
    const [first = new Uint8Array()] = parts;
    const bytes = parts.length > 1 ? joined(parts, length) : first;
    try {
      return this.#decoder.decode(bytes);
    } catch {
      return undefined;
    }
  }
}

function joined(parts: Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
