// A picture's options as a person types them, and as they are on the wire. Blank means the model's default.

import type { GenerateOptions, Model } from "@locara/image/core";

export interface Settings {
  readonly width: string;
  readonly height: string;
  readonly steps: string;
  readonly guidance: string;
  readonly seed: string;
  readonly count: string;
  readonly negativePrompt: string;
  readonly scheduler: string;
  readonly speed: string;
  readonly quantization: string;
}

export const DEFAULTS: Settings = {
  width: "",
  height: "",
  steps: "",
  guidance: "",
  seed: "",
  count: "",
  negativePrompt: "",
  scheduler: "",
  speed: "",
  quantization: "",
};

export type SettingName = keyof Settings;
export type SettingProblems = Partial<Record<SettingName, string>>;

const MAX_SEED = 2 ** 32 - 1;

/** What is wrong with the settings for this model; empty if nothing is. */
export function problemsOf(settings: Settings, model: Model): SettingProblems {
  const { limits, defaults } = model;
  const found: SettingProblems = {};
  for (const side of ["width", "height"] as const) {
    const typed = settings[side];
    const value = whole(typed, limits.minimum, limits.maximum);
    if (typed === "") continue;
    if (value === undefined) found[side] = `From ${limits.minimum} to ${limits.maximum}.`;
    else if (value % limits.multipleOf !== 0) {
      found[side] = `A multiple of ${limits.multipleOf}, such as ${nearest(value, limits)}.`;
    }
  }
  const { width, height } = sizeOf(settings, model);
  if (!found.width && !found.height && width * height > limits.maxPixels) {
    found.height = `Too many pixels with that width: at most ${Math.floor(limits.maxPixels / width / limits.multipleOf) * limits.multipleOf}.`;
  }
  if (settings.steps !== "" && whole(settings.steps, 1, 200) === undefined) found.steps = "From 1 to 200.";
  if (settings.count !== "" && whole(settings.count, 1, 16) === undefined) found.count = "From 1 to 16.";
  const images = whole(settings.count, 1, 16) ?? 1;
  if (settings.seed !== "" && whole(settings.seed, 0, MAX_SEED - images + 1) === undefined) {
    found.seed = `A whole number up to ${MAX_SEED - images + 1}.`;
  }
  if (settings.guidance !== "" && !(Number(settings.guidance) >= 0 && Number(settings.guidance) <= 100)) {
    found.guidance = `From 0 to 100; the model's own is ${defaults.guidance}.`;
  }
  return found;
}

function whole(typed: string, least: number, most: number): number | undefined {
  const value = /^\d+$/.test(typed.trim()) ? Number(typed) : Number.NaN;
  return value >= least && value <= most ? value : undefined;
}

function nearest(value: number, { multipleOf, minimum, maximum }: Model["limits"]): number {
  return Math.min(maximum, Math.max(minimum, Math.round(value / multipleOf) * multipleOf));
}

export function sizeOf(settings: Settings, { defaults }: Model): { width: number; height: number } {
  return { width: Number(settings.width) || defaults.width, height: Number(settings.height) || defaults.height };
}

/** Converts the settings that are not blank to options; for settings without problems. */
export function optionsOf(settings: Settings, model: Model): GenerateOptions {
  const options: Record<string, string | number> = { model: model.id };
  for (const name of ["width", "height", "steps", "guidance", "seed", "count"] as const) {
    if (settings[name] !== "") options[name] = Number(settings[name]);
  }
  for (const name of ["scheduler", "speed", "quantization"] as const) {
    if (settings[name] !== "") options[name] = settings[name];
  }
  if (model.classifierFreeGuidance && settings.negativePrompt.trim() !== "") {
    options["negativePrompt"] = settings.negativePrompt;
  }
  return options;
}

/** Converts `options` to settings; the model's defaults stay blank. */
export function settingsFrom(options: GenerateOptions, model: Model | undefined): Settings {
  const settings: Record<SettingName, string> = { ...DEFAULTS };
  const defaults: Record<string, unknown> = { ...model?.defaults, count: 1, speed: "exact", quantization: "auto" };
  for (const name of Object.keys(DEFAULTS) as SettingName[]) {
    const value = options[name];
    if (value !== undefined && value !== null && value !== defaults[name]) settings[name] = String(value);
  }
  return settings;
}

/** How many settings are not blank. */
export const changed = (settings: Settings): number => Object.values(settings).filter((value) => value !== "").length;
