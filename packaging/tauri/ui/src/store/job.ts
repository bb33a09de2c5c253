// A requested, running or finished picture, as the components see it. No I/O.

import {
  type DiffusionStep,
  type EditParams,
  type GenerateParams,
  type GenerateResult,
  type ImageResult,
  type JobInfo,
  type Model,
  type PreviewImage,
  RemoteError,
  RequestCancelled,
} from "@locara/image/core";

/** A job's request: enough to repeat it. */
export type JobRequest = { kind: "generate"; params: GenerateParams } | { kind: "edit"; params: EditParams };

export type JobState = "sending" | "queued" | "running" | "done" | "cancelled" | "failed";

export interface Job {
  /** This page's own id for it. */
  readonly key: string;
  readonly state: JobState;
  /** The picture's size in pixels, or only its ratio if a reload left nothing better: the preview's box has this shape. */
  readonly width: number;
  readonly height: number;
  /** Absent for a job that was found after a reload, until it has ended. */
  readonly request?: JobRequest;
  /** For a job found after a reload: its call's prompt. */
  readonly prompt?: string;
  readonly jobId?: string;
  readonly model?: string;
  readonly step?: DiffusionStep;
  /** The latest preview. */
  readonly preview?: PreviewImage;
  /** The finished pictures, even after a cancel or a failure. */
  readonly images: readonly ImageResult[];
  readonly result?: GenerateResult;
  readonly error?: unknown;
  /** Whether a cancel was requested and is not answered yet. */
  readonly stopping: boolean;
}

export const isOpen = ({ state }: Job): boolean => state === "sending" || state === "queued" || state === "running";

export function promptOf({ request, prompt }: Job): string | undefined {
  return request?.params.prompt ?? prompt;
}

/** A job that is about to be sent. */
export function asked(key: string, request: JobRequest, size: { width: number; height: number }): Job {
  const model = request.params.options?.model;
  return { key, request, ...size, ...(model && { model }), state: "sending", images: [], stopping: false };
}

/** Updates the job with one of its messages. An earlier preview stays if the message has none. */
export function stepped(job: Job, step: DiffusionStep): Job {
  const { preview } = step;
  const state = step.phase === "queued" ? "queued" : "running";
  return { ...job, state, step, jobId: step.jobId, ...(preview && { preview }) };
}

export function finished(job: Job, result: GenerateResult): Job {
  const [first] = result.images;
  const request = job.request ?? requestOf(result);
  const size = first && { width: first.width, height: first.height };
  const { jobId, images } = result;
  return { ...job, ...size, request, jobId, images, result, model: result.model.id, state: "done", stopping: false };
}

export function failed(job: Job, error: unknown): Job {
  const images = error instanceof RemoteError ? error.images : [];
  return { ...job, state: error instanceof RequestCancelled ? "cancelled" : "failed", images, error, stopping: false };
}

/** A job from before a reload. An edit at its source's own size has the model's size until a preview or the result shows the real one. */
export function found(info: JobInfo, models: readonly Model[]): Job {
  const model = models.find(({ id }) => id === info.model)?.defaults;
  const { preview } = info.last ?? {};
  const { width, height } = sized(info) ?? preview ?? model ?? { width: 1, height: 1 };
  return {
    key: info.jobId,
    jobId: info.jobId,
    state: info.state === "queued" ? "queued" : "running",
    width,
    height,
    ...(info.model && { model: info.model }),
    ...(info.prompt && { prompt: info.prompt }),
    ...(info.last && { step: info.last }),
    ...(preview && { preview }),
    images: [],
    stopping: false,
  };
}

/** The size of a job found after a reload, if it is listed. */
export function sized({ width, height }: JobInfo): { width: number; height: number } | undefined {
  return width && height ? { width, height } : undefined;
}

/** Rebuilds the request from a result's parameters: they have its form, with digests for inline pictures. */
function requestOf({ parameters }: GenerateResult): JobRequest {
  const isEdit = "image" in parameters || "images" in parameters;
  const params: unknown = parameters;
  return isEdit
    ? { kind: "edit", params: params as EditParams }
    : { kind: "generate", params: params as GenerateParams };
}
