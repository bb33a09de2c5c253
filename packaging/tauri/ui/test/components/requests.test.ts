import { expect, test } from "vitest";
import { asked, finished } from "../../src/store/job.js";
import { again, imageInput, inlineOutput, vary, whyNotAgain } from "../../src/store/requests.js";
import { imageOf, MODELS, POCKET, resultOf } from "../support/scripted.js";

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
  const done = finished(found, resultOf([imageOf()], { prompt: "b", steps: 9 }));
  expect(again(done)?.request).toMatchObject({ kind: "generate", params: { prompt: "b", options: { steps: 9 } } });
  expect(again(done)?.request.params.options).not.toHaveProperty("seed");
});

test("an edit can be repeated as long as its picture can be named", () => {
  const edit = (image: object) => whyNotAgain({ kind: "edit", params: { prompt: "a", image: image as never } });
  expect([
    edit({ data: "AA", mimeType: "image/png" }),
    edit({ root: "user-folder", path: "a.png" }),
    edit({ handle: "h" }),
  ]).toEqual([undefined, undefined, undefined]);
  expect(edit({ sha256: "00", mimeType: "image/png" })).toContain("gone");
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
