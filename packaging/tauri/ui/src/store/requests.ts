// Builds the studio's requests: from a prompt, and from an existing picture.

import {
  type EditOptions,
  type EditParams,
  type GenerateOptions,
  type GenerateParams,
  type ImageInput,
  type ImageResult,
  inline,
  type Model,
  type OutputOptions,
} from "@locara/image/core";
import type { Job, JobRequest } from "./job.js";

/** The sidecar's limit for inline pictures, in bytes as it estimates them. */
const INLINE_BYTES = 7 * 1024 * 1024;
const VARY = 0.5;

export interface Sized {
  readonly request: JobRequest;
  readonly size: { width: number; height: number };
}

/** Whether a model can change a picture, and how. */
export const edits = ({ modalities }: Model): "strength" | "instruction" | undefined => {
  if (modalities.includes("image-to-image")) return "strength";
  return modalities.includes("image-text-to-image") ? "instruction" : undefined;
};

/** Also requests pictures in the answer if they are small enough and the page has no other way to show them. */
export function inlineOutput(count: number, { width, height }: { width: number; height: number }): OutputOptions {
  return count * width * height * 4 <= INLINE_BYTES ? { mode: "both" } : { mode: "save" };
}

export function withOutput<T extends GenerateOptions>(options: T, output: OutputOptions): T {
  return { ...options, output: { ...output, ...options.output } };
}

/** The picture as the source of an edit. */
export function imageInput({ data, mimeType, handle, root, relativePath }: ImageResult): ImageInput {
  if (data !== undefined) return { data, mimeType };
  if (handle !== undefined) return { handle };
  return { root: root ?? "user-folder", path: relativePath ?? "" };
}

export interface Editing {
  readonly image: ImageResult;
  readonly prompt: string;
  readonly options: EditOptions;
  readonly mask: Uint8Array | undefined;
}

export function editRequest({ image, prompt, options, mask }: Editing): Sized {
  const params: EditParams = {
    prompt,
    options,
    image: imageInput(image),
    ...(mask && { mask: inline(mask, "image/png") }),
  };
  return { request: { kind: "edit", params }, size: { width: image.width, height: image.height } };
}

/** The same request with another seed. */
export function again({ request, width, height }: Job): Sized | undefined {
  if (request === undefined || whyNotAgain(request) !== undefined) return undefined;
  const { seed: _, ...options } = request.params.options ?? {};
  const params = { ...request.params, options };
  return { request: { ...request, params } as JobRequest, size: { width, height } };
}

/** A picture or mask that was sent inline before a reload is gone: only its digest is left. */
export function whyNotAgain(request: JobRequest | undefined): string | undefined {
  if (request === undefined) return "What it was asked for with is not known.";
  if (request.kind === "generate") return undefined;
  const { image, images, mask } = request.params;
  const isThere = (one: ImageInput) => Boolean(one.data || one.handle || one.path);
  if (!(images ?? [image]).every(isThere)) return "The picture that it was made of is gone.";
  return !mask || isThere(mask) ? undefined : "The mask that it was made with is gone.";
}

/** A picture similar to `image`, by the model that made it or, if that cannot edit, by another. */
export function vary(job: Job, image: ImageResult, models: readonly Model[]): Sized | undefined {
  const can = models.filter((model) => model.installed && model.runnable && edits(model) === "strength");
  const model = can.find(({ id }) => id === job.model) ?? can[0];
  if (model === undefined || job.request === undefined) return undefined;
  const { negativePrompt, steps, guidance, output } = (job.request.params.options ?? {}) as GenerateOptions;
  const same = model.id === job.model ? { negativePrompt, steps, guidance } : {};
  const options = { ...same, ...(output && { output }), model: model.id, strength: VARY } as EditOptions;
  return editRequest({ image, prompt: job.request.params.prompt, options, mask: undefined });
}

/** A request for a picture from a prompt. */
export function generateRequest(params: GenerateParams, size: { width: number; height: number }): Sized {
  return { request: { kind: "generate", params }, size };
}
