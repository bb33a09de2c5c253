// For apps: `image`, `models`, `jobs` and the errors. In a Tauri web view they work as they are; elsewhere after `setClient`.

import { Client } from "./client.js";
import { ClientError } from "./errors.js";
import type { MethodName, Sent, Transport } from "./transport.js";

export * from "./core.js";

let current: Transport | undefined;

/** Loads the Tauri layer at the first call, so apps that never make one need no @tauri-apps/api. */
class Lazy implements Transport {
  readonly #loaded = import("./tauri.js").then(({ TauriTransport }) => new TauriTransport());

  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent {
    return this.#later((transport) => transport.start(method, params, onMessage));
  }

  attach(jobId: string, onMessage: (message: unknown) => void): Sent {
    return this.#later((transport) => transport.attach(jobId, onMessage));
  }

  #later(send: (transport: Transport) => Sent): Sent {
    const sent = this.#loaded.then(send).catch((cause: unknown) => {
      throw new ClientError("There is no sidecar: outside a Tauri web view, call setClient first.", { cause });
    });
    return {
      answer: sent.then(({ answer }) => answer),
      cancel: () =>
        void sent.then(
          (call) => call.cancel(),
          () => {},
        ),
    };
  }
}

/** Sets the client that {@link image} and the others use, such as a `Sidecar` from `@locara/image/node`. */
export function setClient(client: Client): void {
  current = client.transport();
}

const ours = new Client(() => {
  current ??= new Lazy();
  return current;
});

export const { image, models, jobs, audit, system } = ours;
