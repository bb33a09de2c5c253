// What an app's page imports: the API of @locara/image, files that the user picks, and the URL of a picture.

import { dataUrl, type ImageResult, type PickFileResult } from "@locara/image";
import { runCommand } from "@locara/image/tauri";
import { convertFileSrc } from "@tauri-apps/api/core";

export * from "@locara/image";

/** A file that the user picked: a handle for `image`, `mask` and `output`, and the file's own name. */
export type PickedFile = PickFileResult;

export interface PickOptions {
  /** The dialog's title. */
  title?: string;
}

export interface SaveOptions extends PickOptions {
  /** The suggested name. */
  fileName?: string;
}

/** The page never sees a path. The app's capability needs `locara-diffusion:pick-files`, and its manifest `user-selected`. */
export const files = {
  /** Asks the user for an image to read; null if they cancel. */
  async pickImage(options: PickOptions = {}): Promise<PickedFile | null> {
    return (await runCommand("pick_image", { params: options })) as PickedFile | null;
  },

  /** Asks the user where to save a picture, for `options.output`; null if they cancel. */
  async pickOutput(options: SaveOptions = {}): Promise<PickedFile | null> {
    return (await runCommand("pick_output", { params: options })) as PickedFile | null;
  },

  /** Releases a file. Closing the window does, too. */
  async release(handle: string): Promise<void> {
    await runCommand("release_file", { params: { handle } });
  },
};

/**
 * Restarts the sidecar with an access token for gated models that the user typed. The app's capability needs
 * `locara-diffusion:tokens`. Rejects with the kind `Busy` while a long call is in flight, and with `InvalidParams` if it is not a token.
 */
export async function giveToken(token: string): Promise<void> {
  await runCommand("give_token", { params: { token } });
}

/**
 * Returns the `src` of an `<img>`: the picture itself if the result contains it, otherwise its file's URL in the asset protocol, which
 * the app's `tauri.conf.json` must enable.
 *
 * @throws TypeError for a picture that was saved to a file that the user picked: the page has no URL for it.
 */
export function pictureUrl(image: ImageResult): string {
  if (image.data !== undefined) return dataUrl(image);
  if (image.path !== undefined) return convertFileSrc(image.path);
  throw new TypeError("The picture is in a file that the user has picked; ask for it inline, too (output.mode: both).");
}
