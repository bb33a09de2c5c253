// A picture that is asked for, drawn or finished, as the components see it. No I/O.

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

/** What a job was asked for with: enough to ask again. */
export type JobRequest = { kind: "generate"; params: GenerateParams } | { kind: "edit"; params: EditParams };

export type JobState = "sending" | "queued" | "running" | "done" | "cancelled" | "failed";

export interface Job {
  /** This page's own name for it. */
  readonly key: string;
  readonly state: JobState;
  /** Pixels of the picture, or its ratio where a reload left nothing better: the preview's box has this shape. */
  readonly width: number;
  readonly height: number;
  /** Absent for a job that was found after a reload, until it has ended. */
  readonly request?: JobRequest;
  /** Of a job that was found: what its call asked for. */
  readonly prompt?: string;
  readonly jobId?: string;
  readonly model?: string;
  readonly step?: DiffusionStep;
  /** The latest preview that there was. */
  readonly preview?: PreviewImage;
  /** What is finished; also after a cancel or a failure. */
  readonly images: readonly ImageResult[];
  readonly result?: GenerateResult;
  readonly error?: unknown;
  /** Whether a cancel was asked for that is not answered yet. */
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

/** The job after a message of its own. An earlier preview stays where the message has none. */
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

/** A job of before a reload. An edit of its source's own size has the model's until a preview or the result tells better. */
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

/** The size of a job that was found, if that is told. */
export function sized({ width, height }: JobInfo): { width: number; height: number } | undefined {
  return width && height ? { width, height } : undefined;
}

/** The request that a result's parameters are of: they have its form, with a digest for what was sent inline. */
function requestOf({ parameters }: GenerateResult): JobRequest {
  const isEdit = "image" in parameters || "images" in parameters;
  const params: unknown = parameters;
  return isEdit
    ? { kind: "edit", params: params as EditParams }
    : { kind: "generate", params: params as GenerateParams };
}
