import { expect, test } from "vitest";
import { asked, finished } from "../../src/store/job.js";
import { again, imageInput, inlineOutput, vary, whyNotAgain } from "../../src/store/requests.js";
import { imageOf, MODELS, POCKET, RESOLVED, resultOf } from "../support/scripted.js";

const job = asked(
  "a",
  { kind: "generate", params: { prompt: "a", options: { model: "pocket", seed: 7, steps: 4 } } },
  { width: 128, height: 96 },
);

test("again asks for the same, of the same size, and leaves the seed to chance", () => {
  expect(again(job)).toEqual({
    request: { kind: "generate", params: { prompt: "a", options: { model: "pocket", steps: 4 } } },
    size: { width: 128, height: 96 },
  });
});

test("a job of before a reload is asked again with the parameters of its result", () => {
  const { request: _, ...found } = job;
  const done = finished(found, resultOf([imageOf()], { prompt: "b", options: { ...RESOLVED, steps: 9 } }));
  const { seed: _seed, ...options } = RESOLVED;
  const params = { prompt: "b", options: { ...options, steps: 9 } };
  expect(again(done)?.request).toEqual({ kind: "generate", params });
});

test("an edit of before a reload is asked again with its picture and mask, by their names", () => {
  const { request: _, ...found } = job;
  const named = { image: { root: "user-folder", path: "a.png" }, mask: { root: "user-folder", path: "mask.png" } };
  const repeated = (sources: object) => again(finished(found, resultOf([imageOf()], sources)))?.request;
  expect(repeated(named)).toMatchObject({ kind: "edit", params: { prompt: "a red house", ...named } });
  const several = { images: [named.image, { handle: "h" }] };
  expect(repeated(several)).toMatchObject({ kind: "edit", params: several });
  expect(repeated({ ...named, mask: { sha256: "00", mimeType: "image/png" } })).toBeUndefined();
});

test("an edit can be repeated as long as its picture can be named", () => {
  const edit = (image: object) => whyNotAgain({ kind: "edit", params: { prompt: "a", image: image as never } });
  expect([
    edit({ data: "AA", mimeType: "image/png" }),
    edit({ root: "user-folder", path: "a.png" }),
    edit({ handle: "h" }),
  ]).toEqual([undefined, undefined, undefined]);
  expect(edit({ sha256: "00", mimeType: "image/png" })).toContain("gone");
  const mask = { sha256: "00", mimeType: "image/png" };
  const params = { prompt: "a", image: { handle: "h" }, mask: mask as never };
  expect(whyNotAgain({ kind: "edit", params })).toBe("The mask that it was made with is gone.");
  expect(whyNotAgain(undefined)).toContain("not known");
});

test("vary is done by the model that made the picture, else by one that can", () => {
  const installed = MODELS.map((model) => ({ ...model, installed: true }));
  const own = vary(job, imageOf(), installed)?.request.params.options;
  expect(own).toMatchObject({ model: "pocket", steps: 4, strength: 0.5 });
  const other = vary({ ...job, model: "flux.1-kontext-dev" }, imageOf(), installed)?.request.params.options;
  expect(other).toEqual({ model: "sd3.5-medium", strength: 0.5 });
  expect(vary(job, imageOf(), [{ ...POCKET, installed: false }])).toBeUndefined();
});

test("a picture goes into an edit in the form that it is there in", () => {
  const { data: _, ...saved } = imageOf();
  expect(imageInput(imageOf())).toEqual({ data: imageOf().data, mimeType: "image/png" });
  expect(imageInput(saved)).toEqual({ root: "user-folder", path: "one.png" });
  expect(imageInput({ ...saved, handle: "h" })).toEqual({ handle: "h" });
});

test("pictures are asked for inline up to what one answer holds", () => {
  expect(inlineOutput(1, { width: 1024, height: 1024 })).toEqual({ mode: "both" });
  expect(inlineOutput(2, { width: 1024, height: 1024 })).toEqual({ mode: "save" });
});
