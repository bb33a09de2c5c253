// Converts the bytes of pictures for the wire and for web pages.

import type { PreviewImage } from "./schema.js";

type ImageMime = PreviewImage["mimeType"];

/** Encodes bytes in base64. */
export function base64(bytes: Uint8Array): string {
  const pieces: string[] = [];
  for (let at = 0; at < bytes.length; at += 0x8000)
    pieces.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  return btoa(pieces.join(""));
}

/** Creates an image for `image`, `images` or `mask` of an edit from its file's bytes. */
export function inline(bytes: Uint8Array, mimeType: ImageMime): { data: string; mimeType: ImageMime } {
  return { data: base64(bytes), mimeType };
}

/** Returns a `data:` URL of a preview or an inline image of a result, for the `src` of an `<img>`. */
export function dataUrl(image: { mimeType: string; data?: string }): string {
  if (image.data === undefined) throw new TypeError("This image is not inline: request output.mode inline or both.");
  return `data:${image.mimeType};base64,${image.data}`;
}
