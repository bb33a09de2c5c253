// The messages of one call between their arrival and the one who takes them.
//
// Owned here: what happens when the taker is slower than the sidecar. Nothing is left out while it keeps up; beyond
// WAITING messages the newest one absorbs the next, as the sidecar itself does, so that memory does not grow and the
// latest state is always delivered.

/** How many messages may wait. */
export const WAITING = 64;

export type Merge<M> = (older: M, newer: M) => M;

/** The newer message, with the older one's preview if it has none itself and both are of the same image. */
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

  /** Takes a message in; after {@link close} it is dropped. */
  put(message: M): void {
    if (this.#closed) return;
    const newest = this.#waiting.length - 1;
    if (newest + 1 < WAITING) this.#waiting.push(message);
    else this.#waiting[newest] = this.#merge(this.#waiting[newest] as M, message);
    this.#wake();
  }

  /** No more will come; what waits can still be taken. */
  close(): void {
    this.#closed = true;
    this.#wake();
  }

  /** Forgets what waits, too. */
  discard(): void {
    this.#waiting = [];
    this.close();
  }

  /** How many wait. */
  get size(): number {
    return this.#waiting.length;
  }

  /** The oldest one, if any waits. */
  shift(): M | undefined {
    return this.#waiting.shift();
  }

  /** The next message; undefined after the last one. For one taker at a time. */
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
