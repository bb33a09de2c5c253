// States for the screenshots that the real daemon cannot be brought into on this machine: its answers are scripted.

import type { Client, Model } from "@locara/image/core";
import { MODELS, modelOf, POCKET, Scripted } from "../../support/scripted.js";

/** The machine of a scene: each model's fit with that much memory. */
function on(available: number, model: Model): Model {
  const fit = model.fit.map((row) => {
    const free = available * 0.75;
    return {
      ...row,
      available: free,
      fit: row.peak <= free ? "fits" : row.peak <= available ? "tight" : "no",
    } as const;
  });
  const recommended = fit.find((row) => row.fit === "fits") ?? fit.find((row) => row.fit === "tight") ?? null;
  return { ...model, fit, recommended };
}

/** The free disk space in scenes with enough of it. */
const ROOM = 212_000_000_000;

const progress = (bytes: number) => ({
  model: "sd3.5-medium",
  phase: "downloading",
  bytes,
  totalBytes: 16_280_000_000,
  files: 4,
  totalFiles: 21,
  bytesPerSecond: 11_800_000,
  etaMs: 900_000,
});

/** Answers the download when it is requested. */
class Downloading extends Scripted {
  readonly #then: (call: ReturnType<Scripted["last"]>) => void;

  constructor(then: (call: ReturnType<Scripted["last"]>) => void) {
    super({ models: MODELS.filter(({ id }) => id !== "pocket"), freeBytes: ROOM });
    this.#then = then;
  }

  override start(...given: Parameters<Scripted["start"]>): ReturnType<Scripted["start"]> {
    const sent = super.start(...given);
    if (given[0] === "models.download") setTimeout(() => this.#then(this.last("models.download")), 50);
    return sent;
  }
}

const SCENES: Record<string, () => Scripted> = {
  fits: () => new Scripted({ models: MODELS.map((model) => on(13_500_000_000, model)), freeBytes: ROOM }),
  engine: () =>
    new Scripted({
      freeBytes: ROOM,
      models: [modelOf("sd3.5-medium", { installed: true }), POCKET].map((model) => ({ ...model, runnable: false })),
      engines: [
        { name: "mlx", available: false, reason: "MLX needs Apple silicon.", device: null },
        {
          name: "torch",
          available: false,
          reason: "torch is not installed: pip install 'locara-sidecar[torch]'.",
          device: null,
        },
      ],
    }),
  downloading: () => new Downloading((call) => call.tell(progress(5_200_000_000))),
  full: () => new Scripted({ models: MODELS.filter(({ id }) => id !== "pocket"), freeBytes: 9_400_000_000 }),
  disk: () => {
    const scripted = new Downloading((call) => {
      call.tell(progress(5_200_000_000));
      // other programs have written in the meantime
      const available = 2_400_000_000;
      scripted.setting = { ...scripted.setting, freeBytes: available };
      const data = { needed: 11_080_000_000, available };
      call.fail("InsufficientDisk", "There is not enough room on the disk for sd3.5-medium.", data);
    });
    return scripted;
  },
};

export function sceneOf(name: string): Client {
  const scene = SCENES[name];
  if (scene === undefined) throw new Error(`There is no scene ${name}.`);
  return scene().client;
}
