// What a page of an app imports: the API of @locara/image, files that the user picks, and the address of a picture.

import { dataUrl, type ImageResult, type PickFileResult } from "@locara/image";
import { runCommand } from "@locara/image/tauri";
import { convertFileSrc } from "@tauri-apps/api/core";

export * from "@locara/image";

/** A file that the user has picked: a handle for `image`, `mask` and `output`, and the file's own name. */
export type PickedFile = PickFileResult;

export interface PickOptions {
  /** The dialog's title. */
  title?: string;
}

export interface SaveOptions extends PickOptions {
  /** The name that is proposed. */
  fileName?: string;
}

/** The page never sees a path. The app's capability needs `locara-diffusion:pick-files`, and its manifest `user-selected`. */
export const files = {
  /** Asks the user for an image to read; null if they pick none. */
  async pickImage(options: PickOptions = {}): Promise<PickedFile | null> {
    return (await runCommand("pick_image", { params: options })) as PickedFile | null;
  },

  /** Asks the user where to save a picture, for `options.output`; null if they do not want to. */
  async pickOutput(options: SaveOptions = {}): Promise<PickedFile | null> {
    return (await runCommand("pick_output", { params: options })) as PickedFile | null;
  },

  /** Gives a file back. The end of the window does, too. */
  async release(handle: string): Promise<void> {
    await runCommand("release_file", { params: { handle } });
  },
};

/**
 * Gives the sidecar an access token for gated models, which the user has typed; it starts anew with it. The app's capability needs
 * `locara-diffusion:tokens`. Rejects with the kind `Busy` while a long call is under way, with `InvalidParams` if it is no token.
 */
export async function giveToken(token: string): Promise<void> {
  await runCommand("give_token", { params: { token } });
}

/**
 * What the `src` of an `<img>` takes: the picture itself if the result has it, or else its file's address in the asset protocol, which
 * the app's `tauri.conf.json` must enable.
 *
 * @throws TypeError for a picture that was saved to a file that the user picked: the page has no address of it.
 */
export function pictureUrl(image: ImageResult): string {
  if (image.data !== undefined) return dataUrl(image);
  if (image.path !== undefined) return convertFileSrc(image.path);
  throw new TypeError("The picture is in a file that the user has picked; ask for it inline, too (output.mode: both).");
}
