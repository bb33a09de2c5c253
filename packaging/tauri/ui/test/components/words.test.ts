import { CapabilityDenied, fromWire, SidecarGoneError } from "@locara/image/core";
import { expect, test } from "vitest";
import { fitOf, suggested } from "../../src/words/fit.js";
import { bytes, duration, remaining } from "../../src/words/numbers.js";
import { explain, lacking } from "../../src/words/problems.js";
import { DEFAULTS, optionsOf, problemsOf, settingsFrom } from "../../src/words/settings.js";
import { shapesOf } from "../../src/words/shapes.js";
import { MODELS, modelOf } from "../support/scripted.js";

test("sizes and times are read at a glance", () => {
  expect([0, 999, 1000, 16_280_000_000, 99_960_000_000, 999_999_999].map(bytes)).toEqual([
    "0 bytes",
    "999 bytes",
    "1 kB",
    "16.3 GB",
    "100 GB",
    "1.0 GB",
  ]);
  expect([400, 9_600, 11_000, 88_000, 95_000, 6_000_000].map(remaining)).toEqual([
    "about 1 s",
    "about 10 s",
    "about 15 s",
    "about 90 s",
    "about 2 min",
    "about 2 h",
  ]);
  expect([400, 9_960, 59_400, 59_600, 83_400].map(duration)).toEqual([
    "0.4 s",
    "10 s",
    "59 s",
    "1 min 0 s",
    "1 min 23 s",
  ]);
});

test("the fit is told with its numbers, for the form that is recommended", () => {
  expect(fitOf(modelOf("sd3.5-medium"))).toMatchObject({
    verdict: "fits",
    sentence: "Needs 12.6 GB; 22.0 GB are free.",
  });
  expect(fitOf(modelOf("flux.1-schnell")).sentence).toBe("Needs 16.0 GB with 8-bit weights; 22.0 GB are free.");
});

test("a tight fit says what to do, and no fit what it would take", () => {
  const model = modelOf("flux.1-schnell");
  const fit = model.fit.map((one) => ({ ...one, available: 8_000_000_000, fit: "no" as const }));
  expect(fitOf({ ...model, fit, recommended: null })).toMatchObject({
    verdict: "no",
    sentence: "Needs at least 13.9 GB with 4-bit weights; this machine can give 8.0 GB.",
  });
  const tight = { ...fit[2], fit: "tight" } as (typeof model.fit)[number];
  expect(fitOf({ ...model, recommended: tight })).toMatchObject({ verdict: "tight", short: "Tight" });
  expect(fitOf({ ...model, recommended: tight }).sentence).toContain("close other programs");
  expect(fitOf({ ...model, fit: [], recommended: null }).verdict).toBe("unknown");
});

test("without an engine the model fits nowhere", () => {
  const engines = [{ name: "torch", available: false, reason: "torch is not installed.", device: null }];
  expect(fitOf(modelOf("sd3.5-medium"), engines)).toMatchObject({ verdict: "engine", short: "No engine" });
  expect(fitOf(modelOf("pocket", { runnable: false })).verdict).toBe("engine");
});

test("the first model that fits is suggested, a tight one only if none does", () => {
  expect(suggested(MODELS)?.id).toBe("sd3.5-medium");
  const none = MODELS.map((model) => ({ ...model, recommended: null }));
  expect(suggested(none)).toBeUndefined();
  const [first, ...rest] = MODELS.map((model) => ({
    ...model,
    recommended: model.recommended && { ...model.recommended, fit: "tight" as const },
  }));
  expect(first && suggested([first, ...rest])?.id).toBe("sd3.5-medium");
  const fitting = rest.map((model) => ({ ...model, recommended: modelOf(model.id).recommended }));
  expect(first && suggested([first, ...fitting])?.id).toBe("flux.1-schnell");
});

test("blank settings ask for nothing but the model, so that its defaults hold", () => {
  expect(optionsOf(DEFAULTS, modelOf("sd3.5-medium"))).toEqual({ model: "sd3.5-medium" });
  const typed = { ...DEFAULTS, steps: "12", seed: "7", guidance: "3.5", negativePrompt: "fog", speed: "fast" };
  expect(optionsOf(typed, modelOf("sd3.5-medium"))).toEqual({
    model: "sd3.5-medium",
    steps: 12,
    seed: 7,
    guidance: 3.5,
    negativePrompt: "fog",
    speed: "fast",
  });
  expect(optionsOf(typed, modelOf("flux.1-schnell"))).not.toHaveProperty("negativePrompt");
});

test("what a picture was made of comes back as settings, without the model's defaults", () => {
  const model = modelOf("sd3.5-medium");
  const options = {
    model: model.id,
    width: 1024,
    height: 768,
    steps: 28,
    guidance: 4.5,
    seed: 9,
    count: 1,
    speed: "exact",
  };
  expect(settingsFrom(options as object, model)).toEqual({ ...DEFAULTS, height: "768", seed: "9" });
});

test("what the model cannot do is told beside the field", () => {
  const model = modelOf("sd3.5-medium");
  expect(problemsOf(DEFAULTS, model)).toEqual({});
  const wrong = problemsOf({ ...DEFAULTS, width: "1000", height: "99999", steps: "0", seed: "x", count: "17" }, model);
  expect(Object.keys(wrong).sort()).toEqual(["count", "height", "seed", "steps", "width"]);
  expect(wrong.width).toBe("A multiple of 16, such as 1008.");
  expect(problemsOf({ ...DEFAULTS, width: "1536", height: "1536" }, model)).toEqual({});
  const big = { ...model, limits: { ...model.limits, maximum: 2048 } };
  expect(problemsOf({ ...DEFAULTS, width: "2048", height: "2048" }, big).height).toContain("1152");
  expect(problemsOf({ ...DEFAULTS, seed: "4294967295", count: "2" }, model).seed).toContain("4294967294");
});

test("shapes are the model's: multiples of its grid, within its limits", () => {
  for (const model of MODELS) {
    for (const { width, height } of shapesOf(model)) {
      expect([width % model.limits.multipleOf, height % model.limits.multipleOf]).toEqual([0, 0]);
      expect(Math.max(width, height)).toBeLessThanOrEqual(model.limits.maximum);
      expect(width * height).toBeLessThanOrEqual(model.limits.maxPixels);
    }
  }
  expect(shapesOf(modelOf("sd3.5-medium")).map(({ name }) => name)).toContain("Wide 16:9");
});

const wire = (kind: string, data: object = {}) => fromWire({ code: -1, message: "Said.", data: { kind, ...data } });

test("each error has a title, the sidecar's own sentence and what to do", () => {
  const crash = explain(wire("EngineCrashed", { signal: "SIGKILL", phase: "denoising", retryable: true }));
  expect(crash).toMatchObject({ title: "The engine crashed", message: "Said.", retryable: true });
  expect(crash.advice[0]).toContain("It ended with SIGKILL while denoising.");
  const disk = explain(wire("InsufficientDisk", { needed: 16_000_000_000, available: 2_000_000_000 }));
  expect(disk.advice[0]).toBe("16.0 GB are needed, 2.0 GB are free.");
  const memory = explain(
    wire("InsufficientMemory", { needed: 9e9, available: 4e9, suggestions: ["quantization 4bit"] }),
  );
  expect(memory.advice).toContain("What would help: quantization 4bit.");
  for (const kind of ["EngineUnavailable", "StorageError"]) {
    const updated = explain(wire(kind, { reason: "updated" }));
    expect(updated).toMatchObject({ title: "The app was updated", message: "Said.", retryable: true });
    expect(updated.advice).toHaveLength(1);
  }
  expect(explain(wire("EngineUnavailable", { reason: "no GPU" })).title).toBe("The engine cannot run here");
  expect(explain(new SidecarGoneError("It ended.")).title).toBe("The image service has ended");
  expect(explain(wire("SomethingLater")).title).toBe("Something went wrong");
  expect(explain("a text").message).toBe("Something unexpected happened.");
});

test("a refused call tells who has to add what", () => {
  const declare = { capabilities: { models: ["pocket"] } };
  const undeclared = lacking(wire("CapabilityDenied", { reason: "notDeclared", declare }) as CapabilityDenied);
  expect(undeclared).toMatchObject({ who: "manifest", fragment: JSON.stringify(declare, null, 2) });
  const flags = { flags: ["--allow-downloads"] };
  const flag = lacking(wire("CapabilityDenied", { reason: "hostFlag", host: flags }) as CapabilityDenied);
  expect(flag).toMatchObject({ who: "host", host: "--allow-downloads" });
  expect(wire("CapabilityDenied")).toBeInstanceOf(CapabilityDenied);
});
