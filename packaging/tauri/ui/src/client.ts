// What the components need from a client.

import type { Client, ImageResult } from "@locara/image/core";

/** A client of `@locara/image`: `tauriClient()` in a web view, a `Sidecar` in Node, or one over a custom transport. */
export type ImageClient = Pick<Client, "image" | "models" | "jobs" | "system">;

/**
 * Returns the `src` of a finished picture, or undefined if this page cannot show it. In Tauri:
 * `(image) => image.path && convertFileSrc(image.path)`.
 */
export type PictureSource = (image: ImageResult) => string | undefined;
