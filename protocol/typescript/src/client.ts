// The API: what an app calls, over any transport.

import { Call } from "./call.js";
import { base64 } from "./pictures.js";
import type * as schema from "./schema.js";
import type { Message, MethodName, Params, Result, Transport } from "./transport.js";

interface Cancellable {
  /** Cancels the call, which is then answered with RequestCancelled (its `name` is `AbortError`). */
  signal?: AbortSignal | undefined;
}

export interface StepOptions extends Cancellable {
  /** Given each step, with its preview. It may be async: see {@link CallOptions}. Without it, iterate over the call. */
  onStep?: ((step: schema.DiffusionStep) => unknown) | undefined;
}

export interface ProgressOptions<N extends MethodName> extends Cancellable {
  /** Given each message about the progress. Without it, iterate over the call. */
  onProgress?: ((progress: Message<N>) => unknown) | undefined;
}

export type GenerateRequest = Params<"image.generate"> & StepOptions;
export type EditRequest = Params<"image.edit"> & StepOptions;
export type ImageCall = Call<schema.GenerateResult, schema.DiffusionStep>;
/** What a job can be answered with: an image's job with the first, `models.load` and `models.prepare` with theirs. */
export type JobAnswer = schema.GenerateResult | schema.LoadResult | schema.PrepareResult;

/** A base on which the parts of the API stand. */
class Part {
  readonly #transport: () => Transport;

  constructor(transport: () => Transport) {
    this.#transport = transport;
  }

  protected async ask<N extends MethodName>(method: N, params: Params<N>): Promise<Result<N>> {
    return (await this.#transport().start(method, params).answer) as Result<N>;
  }

  protected long<N extends MethodName>(
    method: N,
    params: Params<N>,
    onMessage: ((message: Message<N>) => unknown) | undefined,
    signal: AbortSignal | undefined,
  ): Call<Result<N>, Message<N>> {
    return new Call((take) => this.#transport().start(method, params, take), { onMessage, signal });
  }

  protected attached(jobId: string, { onStep, signal }: StepOptions): Call<JobAnswer, schema.DiffusionStep> {
    return new Call((take) => this.#transport().attach(jobId, take), { onMessage: onStep, signal });
  }
}

export class ImageApi extends Part {
  /** Text to image. `await` it for the result, give `onStep` or iterate for its steps. */
  generate({ onStep, signal, ...params }: GenerateRequest): ImageCall {
    return this.long("image.generate", params, onStep, signal);
  }

  /** Change an image: as a whole, where a mask is white, or as the prompt says. */
  edit({ onStep, signal, ...params }: EditRequest): ImageCall {
    return this.long("image.edit", params as Params<"image.edit">, onStep, signal);
  }

  /** Cancels a job of which only the id is known, as after a reload. */
  cancel(jobId: string): Promise<schema.CancelJobResult> {
    return this.ask("image.cancel", { jobId });
  }
}

export class JobsApi extends Part {
  /** Those that wait or run, in the order of their turns; then those that ended lately. */
  async list(): Promise<schema.JobInfo[]> {
    return (await this.ask("jobs.list", {})).jobs;
  }

  /**
   * The further steps of a job and its answer, as after a reload: its first step is the last one that there was, with the
   * preview. Whoever had them before has them no more.
   */
  attach(jobId: string, options: StepOptions = {}): Call<JobAnswer, schema.DiffusionStep> {
    return this.attached(jobId, options);
  }

  /** What a job that has ended was answered with; rejects with its error, if that was it. */
  async result(jobId: string): Promise<JobAnswer> {
    return (await this.ask("jobs.result", { jobId })) as JobAnswer;
  }
}

type Progressing<N extends MethodName> = Params<N> & ProgressOptions<N>;

export class ModelsApi extends Part {
  /** The models that the app's manifest declares. */
  async list(): Promise<schema.Model[]> {
    return (await this.listing()).models;
  }

  /** The same, with what may still be written where models are kept (`freeBytes`), if the sidecar tells. */
  listing(): Promise<schema.ModelsListResult> {
    return this.ask("models.list", {});
  }

  get(model: string): Promise<schema.Model> {
    return this.ask("models.get", { model });
  }

  download(request: Progressing<"models.download">): Call<schema.InstalledResult, schema.DownloadProgress> {
    return this.#work("models.download", request);
  }

  verify(request: Progressing<"models.verify">): Call<schema.VerifyResult, schema.ModelProgress> {
    return this.#work("models.verify", request);
  }

  import(request: Progressing<"models.import">): Call<schema.InstalledResult, schema.ModelProgress> {
    return this.#work("models.import", request);
  }

  load(request: Progressing<"models.load">): Call<schema.LoadResult, schema.ModelProgress> {
    return this.#work("models.load", request);
  }

  prepare(request: Progressing<"models.prepare">): Call<schema.PrepareResult, schema.ModelProgress> {
    return this.#work("models.prepare", request);
  }

  /** Gives the engine's memory back, if it has no work. */
  async unload(): Promise<boolean> {
    return (await this.ask("models.unload", {})).unloaded;
  }

  remove(params: Params<"models.remove">): Promise<schema.RemovedResult> {
    return this.ask("models.remove", params);
  }

  usage(): Promise<schema.UsageResult> {
    return this.ask("models.usage", {});
  }

  gc(params: Params<"models.gc"> = {}): Promise<schema.RemovedResult> {
    return this.ask("models.gc", params);
  }

  #work<N extends MethodName>(method: N, request: Progressing<N>): Call<Result<N>, Message<N>> {
    const { onProgress, signal, ...params } = request as Params<N> & ProgressOptions<N>;
    return this.long(method, params as unknown as Params<N>, onProgress, signal);
  }
}

export class AuditApi extends Part {
  /** The gate's decisions about this app's calls, oldest first. */
  async capabilityLog(params: Params<"audit.capabilityLog"> = {}): Promise<schema.AuditEntry[]> {
    return (await this.ask("audit.capabilityLog", params)).entries;
  }
}

export class SystemApi extends Part {
  info(): Promise<schema.SystemInfo> {
    return this.ask("system.info", {});
  }

  ping(): Promise<schema.PingResult> {
    return this.ask("ping", {});
  }
}

/** What only a host may say: never called for a web view, and not part of the Tauri layer. */
export class HostApi extends Part {
  /** A handle of a file that the user picked in a dialog, for `image`, `mask` and `options.output`. */
  pickFile(path: string, access: "read" | "write"): Promise<schema.PickFileResult> {
    return this.ask("host.pickFile", { path, access });
  }

  /** The same for a file to read that the sidecar may not open itself: its name, without a folder, and its bytes. */
  pickBytes(name: string, bytes: Uint8Array): Promise<schema.PickFileResult> {
    return this.ask("host.pickFile", { name, data: base64(bytes), access: "read" });
  }

  async releaseFile(handle: string): Promise<void> {
    await this.ask("host.releaseFile", { handle });
  }
}

/** The whole API over a transport. */
export class Client {
  readonly image: ImageApi;
  readonly models: ModelsApi;
  readonly jobs: JobsApi;
  readonly audit: AuditApi;
  readonly system: SystemApi;
  /** What carries the calls. */
  readonly transport: () => Transport;

  /** @param transport what carries the calls; a function is asked at each call. */
  constructor(transport: Transport | (() => Transport)) {
    const carrier = typeof transport === "function" ? transport : () => transport;
    this.transport = carrier;
    this.image = new ImageApi(carrier);
    this.models = new ModelsApi(carrier);
    this.jobs = new JobsApi(carrier);
    this.audit = new AuditApi(carrier);
    this.system = new SystemApi(carrier);
  }
}
