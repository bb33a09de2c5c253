// What the components ask of whoever carries their calls.

import type { Client, ImageResult } from "@locara/image/core";

/** A client of `@locara/image`: `tauriClient()` in a web view, a `Sidecar` in Node, or one over a transport of your own. */
export type ImageClient = Pick<Client, "image" | "models" | "jobs" | "system">;

/**
 * The `src` for a finished picture, or undefined where this page cannot show it. In Tauri:
 * `(image) => image.path && convertFileSrc(image.path)`.
 */
export type PictureSource = (image: ImageResult) => string | undefined;
