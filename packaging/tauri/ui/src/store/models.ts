// The models that the app may use, and their downloads.

import { type DownloadProgress, type EngineInfo, type Model, RemoteError, RequestCancelled } from "@locara/image/core";
import type { ImageClient } from "../client.js";
import { Observable } from "./observable.js";

/** A download that runs, or ended without the model: its last progress tells what is kept for the next try. */
export interface Transfer {
  readonly state: "running" | "paused" | "failed";
  readonly progress?: DownloadProgress;
  readonly error?: unknown;
}

/** Whether the next try of a download goes on from something. */
export const hasBegun = (transfer: Transfer | undefined): boolean => (transfer?.progress?.bytes ?? 0) > 0;

export interface ModelsState {
  readonly status: "loading" | "ready" | "failed";
  /** Why the models cannot be listed. */
  readonly error?: unknown;
  readonly models: readonly Model[];
  /** What may still be written where models are kept, if that is known. */
  readonly freeBytes?: number;
  /** Empty where the app may not ask for them. */
  readonly engines: readonly EngineInfo[];
  readonly transfers: Readonly<Record<string, Transfer>>;
}

export class ModelStore extends Observable<ModelsState> {
  readonly #client: ImageClient;
  readonly #running = new Map<string, AbortController>();

  constructor(client: ImageClient) {
    super({ status: "loading", models: [], engines: [], transfers: {} });
    this.#client = client;
  }

  /** Asks for the models anew. What is wrong is in the state. */
  async refresh(): Promise<void> {
    const told = this.#client.system.info().then(
      (info) => info.engines,
      () => [] as EngineInfo[],
    );
    try {
      const [{ models, freeBytes }, engines] = await Promise.all([this.#client.models.listing(), told]);
      const { error: _, freeBytes: __, ...before } = this.get(); // only now: downloads go on meanwhile
      const room = freeBytes === undefined ? {} : { freeBytes };
      this.set({ ...before, ...room, status: "ready", models, engines });
    } catch (error) {
      this.set({ ...this.get(), status: "failed", error });
    }
  }

  /** Downloads a model, or goes on where the last try stopped. */
  async download(id: string): Promise<void> {
    if (this.#running.has(id)) return;
    const controller = new AbortController();
    this.#running.set(id, controller);
    const before = this.get().transfers[id]?.progress;
    let now: Transfer | undefined = { state: "running", ...(before && { progress: before }) };
    this.#tell(id, now);
    const onProgress = (progress: DownloadProgress) => {
      now = { state: "running", progress: kept(now?.progress, progress) };
      this.#tell(id, now);
    };
    try {
      await this.#client.models.download({ model: id, onProgress, signal: controller.signal });
      await this.refresh();
      now = undefined;
    } catch (error) {
      const state = error instanceof RequestCancelled ? "paused" : "failed";
      now = { ...now, state, ...(state === "failed" && { error }) };
      if (error instanceof RemoteError) void this.#lookForRoom();
    } finally {
      this.#running.delete(id);
    }
    this.#tell(id, now);
  }

  /** Stops a download; what has arrived is kept. */
  pause(id: string): void {
    this.#running.get(id)?.abort();
  }

  /** What a download has written is no longer free. */
  async #lookForRoom(): Promise<void> {
    try {
      const { freeBytes } = await this.#client.models.listing();
      if (freeBytes !== undefined) this.set({ ...this.get(), freeBytes });
    } catch {
      // what was known before stays
    }
  }

  #tell(id: string, transfer: Transfer | undefined): void {
    const { [id]: _, ...others } = this.get().transfers;
    this.set({ ...this.get(), transfers: transfer === undefined ? others : { ...others, [id]: transfer } });
  }
}

/** While a download that goes on looks for what it has, it tells of no bytes: the bar stays where it was. */
function kept(before: DownloadProgress | undefined, now: DownloadProgress): DownloadProgress {
  if (now.phase !== "resolving" || before === undefined) return now;
  return { ...now, bytes: before.bytes, totalBytes: before.totalBytes };
}
