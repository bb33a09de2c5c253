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
  /** Called with each step and its preview. It may be async: see {@link CallOptions}. Without it, iterate over the call. */
  onStep?: ((step: schema.DiffusionStep) => unknown) | undefined;
}

export interface ProgressOptions<N extends MethodName> extends Cancellable {
  /** Called with each progress message. Without it, iterate over the call. */
  onProgress?: ((progress: Message<N>) => unknown) | undefined;
}

export type GenerateRequest = Params<"image.generate"> & StepOptions;
export type EditRequest = Params<"image.edit"> & StepOptions;
export type ImageCall = Call<schema.GenerateResult, schema.DiffusionStep>;
/** The answer of a job: of an image job the first, of `models.load` and `models.prepare` their own. */
export type JobAnswer = schema.GenerateResult | schema.LoadResult | schema.PrepareResult;

/** The base class of the parts of the API. */
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
  /** Text to image. `await` it for the result; pass `onStep`, or iterate, for the steps. */
  generate({ onStep, signal, ...params }: GenerateRequest): ImageCall {
    return this.long("image.generate", params, onStep, signal);
  }

  /** Changes an image: as a whole, where a mask is white, or as the prompt says. */
  edit({ onStep, signal, ...params }: EditRequest): ImageCall {
    return this.long("image.edit", params as Params<"image.edit">, onStep, signal);
  }

  /** Cancels a job by its id, for example after a reload. */
  cancel(jobId: string): Promise<schema.CancelJobResult> {
    return this.ask("image.cancel", { jobId });
  }
}

export class JobsApi extends Part {
  /** Lists the jobs: first those that run or wait, in queue order; then those that ended recently. */
  async list(): Promise<schema.JobInfo[]> {
    return (await this.ask("jobs.list", {})).jobs;
  }

  /**
   * Follows a job, for example after a reload: its further steps and its answer. The first step repeats the latest one,
   * with its preview. The previous receiver gets no more steps.
   */
  attach(jobId: string, options: StepOptions = {}): Call<JobAnswer, schema.DiffusionStep> {
    return this.attached(jobId, options);
  }

  /** Returns the answer of a job that has ended; rejects with the job's error if it failed. */
  async result(jobId: string): Promise<JobAnswer> {
    return (await this.ask("jobs.result", { jobId })) as JobAnswer;
  }
}

type Progressing<N extends MethodName> = Params<N> & ProgressOptions<N>;

export class ModelsApi extends Part {
  /** Lists the models that the app's manifest declares. */
  async list(): Promise<schema.Model[]> {
    return (await this.listing()).models;
  }

  /** Like {@link list}, with the space that is left for models (`freeBytes`), if the sidecar reports it. */
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

  /** Frees the engine's memory, if it has no work. */
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
  /** Returns the gate's decisions about this app's calls, oldest first. */
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

/** Methods for hosts only: never call them for a web view. They are not part of the Tauri layer. */
export class HostApi extends Part {
  /** Returns a handle for a file that the user picked in a dialog, for `image`, `mask` and `options.output`. */
  pickFile(path: string, access: "read" | "write"): Promise<schema.PickFileResult> {
    return this.ask("host.pickFile", { path, access });
  }

  /** Like {@link pickFile}, for a file to read that the sidecar may not open itself: its name, without a folder, and bytes. */
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
  /** The transport that carries the calls. */
  readonly transport: () => Transport;

  /** @param transport carries the calls; a function is called for each one. */
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
