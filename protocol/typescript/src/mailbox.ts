// Holds the messages of one call until the caller consumes them.
//
// This module decides what happens when the consumer is slower than the sidecar. While it keeps up, nothing is left out.
// Beyond WAITING messages the newest one absorbs the next, as in the sidecar itself, so memory does not grow and the latest
// state is always delivered.

/** How many messages may wait. */
export const WAITING = 64;

export type Merge<M> = (older: M, newer: M) => M;

/** Returns the newer message, with the older one's preview if it has none and both are about the same image. */
export function latest<M>(older: M, newer: M): M {
  const [was, is] = [older, newer] as { image?: unknown; preview?: unknown }[];
  if (was?.preview === undefined || is?.preview !== undefined || was.image !== is?.image) return newer;
  return { ...newer, preview: was.preview };
}

export class Mailbox<M> {
  #waiting: M[] = [];
  #closed = false;
  #woken: (() => void) | undefined;
  readonly #merge: Merge<M>;

  constructor(merge: Merge<M> = latest) {
    this.#merge = merge;
  }

  /** Adds a message; after {@link close} it is dropped. */
  put(message: M): void {
    if (this.#closed) return;
    const newest = this.#waiting.length - 1;
    if (newest + 1 < WAITING) this.#waiting.push(message);
    else this.#waiting[newest] = this.#merge(this.#waiting[newest] as M, message);
    this.#wake();
  }

  /** Called when no more messages will come; those that wait can still be consumed. */
  close(): void {
    this.#closed = true;
    this.#wake();
  }

  /** Closes it and drops the waiting messages. */
  discard(): void {
    this.#waiting = [];
    this.close();
  }

  /** How many wait. */
  get size(): number {
    return this.#waiting.length;
  }

  /** Returns the oldest waiting message, if any. */
  shift(): M | undefined {
    return this.#waiting.shift();
  }

  /** Returns the next message; undefined after the last one. For one consumer at a time. */
  async next(): Promise<M | undefined> {
    while (this.#waiting.length === 0) {
      if (this.#closed) return undefined;
      await new Promise<void>((resolve) => {
        this.#woken = resolve;
      });
    }
    return this.#waiting.shift();
  }

  #wake(): void {
    this.#woken?.();
    this.#woken = undefined;
  }
}
