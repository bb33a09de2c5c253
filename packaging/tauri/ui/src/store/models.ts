// The models that the app may use, and their downloads.

import { type DownloadProgress, type EngineInfo, type Model, RemoteError, RequestCancelled } from "@locara/image/core";
import type { ImageClient } from "../client.js";
import { Observable } from "./observable.js";

/** A download that runs, or ended without the model: its last progress shows what is kept for the next attempt. */
export interface Transfer {
  readonly state: "running" | "paused" | "failed";
  readonly progress?: DownloadProgress;
  readonly error?: unknown;
}

/** Whether the next attempt at a download can resume. */
export const hasBegun = (transfer: Transfer | undefined): boolean => (transfer?.progress?.bytes ?? 0) > 0;

export interface ModelsState {
  readonly status: "loading" | "ready" | "failed";
  /** Why the models cannot be listed. */
  readonly error?: unknown;
  readonly models: readonly Model[];
  /** The disk space left for models, if known. */
  readonly freeBytes?: number;
  /** Empty if the app may not query them. */
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

  /** Refreshes the models. Errors are in the state. */
  async refresh(): Promise<void> {
    const told = this.#client.system.info().then(
      (info) => info.engines,
      () => [] as EngineInfo[],
    );
    try {
      const [{ models, freeBytes }, engines] = await Promise.all([this.#client.models.listing(), told]);
      const { error: _, freeBytes: __, ...before } = this.get(); // read only now, because downloads go on in the meantime
      const room = freeBytes === undefined ? {} : { freeBytes };
      this.set({ ...before, ...room, status: "ready", models, engines });
    } catch (error) {
      this.set({ ...this.get(), status: "failed", error });
    }
  }

  /** Downloads a model, resuming an earlier attempt. */
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

  /** Subtracts what a download has written from the free space. */
  async #lookForRoom(): Promise<void> {
    try {
      const { freeBytes } = await this.#client.models.listing();
      if (freeBytes !== undefined) this.set({ ...this.get(), freeBytes });
    } catch {
      // the earlier value stays
    }
  }

  #tell(id: string, transfer: Transfer | undefined): void {
    const { [id]: _, ...others } = this.get().transfers;
    this.set({ ...this.get(), transfers: transfer === undefined ? others : { ...others, [id]: transfer } });
  }
}

/** While a resumed download checks what it already has, it reports no bytes: the bar stays where it was. */
function kept(before: DownloadProgress | undefined, now: DownloadProgress): DownloadProgress {
  if (now.phase !== "resolving" || before === undefined) return now;
  return { ...now, bytes: before.bytes, totalBytes: before.totalBytes };
}
