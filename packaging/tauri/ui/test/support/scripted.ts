// A sidecar that sends what a test scripts: the real client over a transport without a daemon.

import {
  Client,
  type DiffusionStep,
  type EngineInfo,
  fromWire,
  type GenerateResult,
  type ImageResult,
  type JobInfo,
  type MethodName,
  type Model,
  type PreviewImage,
  type Sent,
  type Transport,
} from "@locara/image/core";
import recorded from "./models.json" with { type: "json" };

/** The real daemon's list of models on a machine with 22 GB free. */
export const MODELS = recorded as unknown as Model[];

export function modelOf(id: string, changes: Partial<Model> = {}): Model {
  const found = MODELS.find((model) => model.id === id);
  if (found === undefined) throw new Error(`There is no ${id} among the recorded models.`);
  return { ...structuredClone(found), ...changes };
}

export const POCKET = modelOf("pocket", { installed: true });

/** A picture of one pixel. */
export const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/** A call that the page made and that the test answers. */
export class Asked {
  readonly method: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into what was sent
  readonly params: any;
  cancelled = false;
  answer: (result: unknown) => void = () => {};
  refuse: (error: unknown) => void = () => {};
  readonly #onMessage: ((message: unknown) => void) | undefined;

  constructor(method: string, params: object, onMessage: ((message: unknown) => void) | undefined) {
    this.method = method;
    this.params = params;
    this.#onMessage = onMessage;
  }

  cancel(): void {
    this.cancelled = true;
  }

  tell(message: object): void {
    this.#onMessage?.(message);
  }

  fail(kind: string, message: string, data: object = {}): void {
    this.refuse(fromWire({ code: -32000, message, data: { kind, retryable: false, ...data } }));
  }
}

export interface Setting {
  models?: readonly Model[];
  /** A promise is answered once it is fulfilled. */
  engines?: readonly EngineInfo[] | Promise<readonly EngineInfo[]>;
  /** The free disk space; without it, the sidecar does not report any. */
  freeBytes?: number;
  jobs?: readonly JobInfo[];
  results?: Record<string, GenerateResult>;
}

export class Scripted implements Transport {
  readonly asked: Asked[] = [];
  readonly client = new Client(this);
  setting: Setting;

  constructor(setting: Setting = {}) {
    this.setting = setting;
  }

  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent {
    const { models = [POCKET], engines = [], jobs = [], results = {}, freeBytes } = this.setting;
    const asked = new Asked(method, params, onMessage);
    this.asked.push(asked);
    const answers: Record<string, unknown> = {
      "models.list": { models, ...(freeBytes !== undefined && { freeBytes }) },
      "system.info": Promise.resolve(engines).then((told) => ({ engines: told })),
      "jobs.list": { jobs },
      "jobs.result": results[(params as { jobId?: string }).jobId ?? ""],
    };
    const answer = method in answers ? Promise.resolve(answers[method]) : this.#later(asked);
    return { answer, cancel: () => asked.cancel() };
  }

  attach(jobId: string, onMessage: (message: unknown) => void): Sent {
    const asked = new Asked("jobs.attach", { jobId }, onMessage);
    this.asked.push(asked);
    return { answer: this.#later(asked), cancel: () => asked.cancel() };
  }

  /** The latest call of a method. */
  last(method: string): Asked {
    const found = [...this.asked].reverse().find((one) => one.method === method);
    if (found === undefined) throw new Error(`${method} was not called, but ${this.asked.map((one) => one.method)}`);
    return found;
  }

  #later(asked: Asked): Promise<unknown> {
    return new Promise((resolve, reject) => {
      asked.answer = resolve;
      asked.refuse = reject;
    });
  }
}

export function stepOf(changes: Partial<DiffusionStep> = {}): DiffusionStep {
  const one = { jobId: "job-1", image: 1, images: 1, step: 0, steps: 8, progress: 0, elapsedMs: 10 };
  return { ...one, phase: "denoising", ...changes };
}

export const previewOf = (width = 128, height = 128): PreviewImage => ({
  mimeType: "image/png",
  width,
  height,
  data: PIXEL,
  decoder: "linear",
  source: "x0",
});

export function imageOf(changes: Partial<ImageResult> = {}): ImageResult {
  const picture = { mimeType: "image/png" as const, width: 128, height: 128, bytes: 70, sha256: "00" };
  const file = { path: "/home/a/Pictures/one.png", root: "user-folder", relativePath: "one.png" };
  return { ...picture, ...file, seed: 42, data: PIXEL, ...changes };
}

/** Options as the sidecar resolves them: all of them, whatever the call named. */
export const RESOLVED = {
  ...{ model: "pocket", negativePrompt: "", width: 128, height: 128, steps: 8, guidance: 4, seed: 42, count: 1 },
  ...{ scheduler: "flow-match-euler", speed: "exact", quantization: "none", precision: "float32", tiling: "off" },
  engine: "auto",
  output: { mode: "both", root: "user-folder", onConflict: "rename", mimeType: "image/png" },
};

export function resultOf(images = [imageOf()], parameters: object = {}, jobId = "job-1"): GenerateResult {
  const none = { queuedMs: 0, loadMs: 0, encodeMs: 0, denoiseMs: 0, decodeMs: 0, saveMs: 0, totalMs: 3210 };
  const used = { version: "2", digest: "sha256:00", engine: "fake", device: "cpu" };
  return {
    jobId,
    images,
    model: { id: "pocket", ...used, quantization: "none", precision: "float32" },
    parameters: { prompt: "a red house", options: RESOLVED, ...parameters },
    timings: none,
    peakMemoryBytes: 1,
    warnings: [],
  };
}
