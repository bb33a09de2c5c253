import type { JobInfo, Model } from "@locara/image/core";
import { act, fireEvent, render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, test } from "vitest";
import { Studio, type StudioProps } from "../../src/index.js";
import { KEPT } from "../../src/store/jobs.js";
import { expectAccessible } from "../support/axe.js";
import {
  imageOf,
  MODELS,
  modelOf,
  POCKET,
  previewOf,
  resultOf,
  Scripted,
  type Setting,
  stepOf,
} from "../support/scripted.js";

async function studio(setting: Setting = {}, props: Partial<StudioProps> = {}) {
  const scripted = new Scripted(setting);
  const view = render(<Studio client={scripted.client} {...props} />);
  await waitFor(() => expect(scripted.last("jobs.list")).toBeTruthy());
  return { scripted, root: view.container, view };
}

const prompt = () => screen.getByRole<HTMLTextAreaElement>("textbox", { name: /What (to draw|it should become)/ });
const draw = async (words: string) => {
  fireEvent.change(prompt(), { target: { value: words } });
  fireEvent.keyDown(prompt(), { key: "Enter", ctrlKey: true });
};
const words = () => document.querySelector(".locara-status-words")?.textContent;
const button = (name: string | RegExp) => screen.getByRole<HTMLButtonElement>("button", { name });

test("with nothing installed the list of models is open and nothing can be drawn", async () => {
  const { root } = await studio({ models: MODELS.filter(({ id }) => id !== "pocket") });
  await screen.findByRole("heading", { name: "No model is installed yet" });
  await userEvent.type(prompt(), "a red house");
  expect(button("Draw").disabled).toBe(true);
  screen.getByText("No model can draw yet");
  await expectAccessible(root);
});

test("the first installed model is chosen, the list is folded, and the options are the model's own", async () => {
  const { scripted, root } = await studio({ models: MODELS });
  await screen.findByText("Pocket");
  expect(button(/^Model/).getAttribute("aria-expanded")).toBe("false");
  expect(root.querySelector("details.locara-options")?.hasAttribute("open")).toBe(false);
  await draw("a red house");
  expect(scripted.last("image.generate").params).toEqual({
    prompt: "a red house",
    options: { model: "pocket", output: { mode: "both" } },
  });
  await expectAccessible(root);
});

test("the folded list says what is wrong with the chosen model: its licence, its fit, or that nothing draws with it", async () => {
  const dev = modelOf("flux.1-dev", { installed: true });
  const { view } = await studio({ models: [dev] });
  await screen.findByText("FLUX.1 dev");
  expect(button(/^Model/).textContent).toBe("ModelFLUX.1 devNon-commercial");
  view.unmount();
  const fit = dev.fit.map((row) => ({ ...row, fit: "no" as const }));
  const none = await studio({ models: [{ ...POCKET, fit, recommended: null }] });
  await screen.findByText("Pocket");
  expect(button(/^Model/).textContent).toBe("ModelPocketDoes not fit");
  none.view.unmount();
  await studio({ models: [{ ...POCKET, runnable: false }] });
  await screen.findByText("No engine");
  expect(button(/^Model/).textContent).toBe("ModelNone yet");
  await userEvent.type(prompt(), "a red house");
  expect(button("Draw").disabled).toBe(true);
});

test("when the first model arrives, the list in which it was asked for stays open and says so", async () => {
  const { scripted } = await studio({ models: [modelOf("sd3.5-medium")] });
  await userEvent.click((await screen.findAllByRole("button", { name: /^Download/ }))[0] as HTMLElement);
  expect(button(/^Model/).textContent).toBe("ModelNone yetDownloading");
  scripted.setting = { models: [modelOf("sd3.5-medium", { installed: true })] };
  await act(async () =>
    scripted.last("models.download").answer({ model: "sd3.5-medium", digest: "", bytes: 1, files: 9 }),
  );
  await screen.findByText("Installed");
  expect(button(/^Model/).getAttribute("aria-expanded")).toBe("true");
  expect(button(/^Model/).textContent).toContain("Stable Diffusion 3.5 Medium");
  await userEvent.click(button(/^Model/));
  expect(button(/^Model/).getAttribute("aria-expanded")).toBe("false");
});

test("opening the list asks anew what is there and how much memory is free", async () => {
  const { scripted } = await studio();
  await screen.findByText("Pocket");
  scripted.setting = { models: [modelOf("sdxl-lightning", { installed: true }), POCKET] };
  await userEvent.click(button(/^Model/));
  await screen.findByRole("radio", { name: "SDXL Lightning" });
});

test("a picture is drawn from the prompt to the gallery, with its facts", async () => {
  const { scripted, root } = await studio();
  await screen.findByText("Pocket");
  await draw("a red house");
  const call = scripted.last("image.generate");
  expect(words()).toBe("Asking the engine…");
  act(() => call.tell(stepOf({ step: 2, progress: 0.3, preview: previewOf() })));
  expect(words()).toBe("Step 2 of 8");
  await act(async () => call.answer(resultOf()));
  expect(words()).toContain("Done in 3.2 s");
  const gallery = within(screen.getByRole("region", { name: "Pictures" }));
  gallery.getByText("a red house");
  gallery.getByText("/home/a/Pictures/one.png");
  expect(root.querySelector(".locara-picture")?.getAttribute("data-shown")).toBe("true");
  await expectAccessible(root);
});

test("further pictures queue, each is cancelled by itself, and one that fails behind another is not lost", async () => {
  const { scripted } = await studio();
  await screen.findByText("Pocket");
  await draw("one");
  const first = scripted.last("image.generate");
  act(() => first.tell(stepOf({ step: 1, progress: 0.1 })));
  expect(button("Add to the queue").disabled).toBe(false);
  await draw("two");
  const second = scripted.last("image.generate");
  act(() => second.tell(stepOf({ jobId: "job-2", phase: "queued" })));
  await draw("three");
  const third = scripted.last("image.generate");
  await userEvent.click(button("Cancel: three"));
  expect([first.cancelled, second.cancelled, third.cancelled]).toEqual([false, false, true]);
  await act(async () => third.fail("RequestCancelled", "Cancelled."));
  await act(async () => first.fail("EngineCrashed", "The engine died.", { status: 70 }));
  act(() => second.tell(stepOf({ jobId: "job-2", step: 1, progress: 0.1 })));
  await userEvent.click(button("Why it failed: one"));
  screen.getByRole("heading", { name: "The engine crashed" });
  await userEvent.click(button("Try again"));
  expect(scripted.last("image.generate").params.prompt).toBe("one");
});

test("what came inline is asked for only where it is small enough, or as the app says", async () => {
  const big = modelOf("sd3.5-medium", {
    installed: true,
    defaults: { ...modelOf("sd3.5-medium").defaults, width: 1536, height: 1536 },
  });
  const { scripted, view } = await studio({ models: [big] });
  await screen.findByText(big.displayName);
  await draw("a");
  expect(scripted.last("image.generate").params.options.output).toEqual({ mode: "save" });
  view.unmount();
  const own = await studio({}, { output: { mode: "inline", mimeType: "image/webp" } });
  await screen.findByText("Pocket");
  await draw("a");
  expect(own.scripted.last("image.generate").params.options.output).toEqual({ mode: "inline", mimeType: "image/webp" });
});

test("options are sent as they are typed, wrong ones hold the picture back, and go back to the model's own", async () => {
  const { scripted, root } = await studio({ models: [modelOf("sd3.5-medium", { installed: true })] });
  await screen.findByText("Stable Diffusion 3.5 Medium");
  await userEvent.click(screen.getByText("Options"));
  expect(screen.getByRole<HTMLInputElement>("textbox", { name: "Steps" }).placeholder).toBe("28");
  await userEvent.type(screen.getByRole("textbox", { name: "Steps" }), "500");
  await userEvent.type(prompt(), "a");
  expect(button("Draw").disabled).toBe(true);
  screen.getByText("From 1 to 200.");
  await expectAccessible(root);
  await userEvent.clear(screen.getByRole("textbox", { name: "Steps" }));
  await userEvent.type(screen.getByRole("textbox", { name: "Steps" }), "5");
  await userEvent.selectOptions(screen.getByRole("combobox", { name: "Shape" }), "Wide 16:9");
  await userEvent.type(screen.getByRole("textbox", { name: "What to avoid" }), "fog");
  await userEvent.click(button("Draw"));
  const { options } = scripted.last("image.generate").params;
  expect(options).toMatchObject({ steps: 5, width: 1360, height: 768, negativePrompt: "fog" });
  await userEvent.click(button("Back to the model's own"));
  expect(screen.getByRole<HTMLInputElement>("textbox", { name: "Steps" }).value).toBe("");
});

async function withPicture(models: readonly Model[] = [POCKET], parameters: object = {}) {
  const made = await studio({ models });
  await screen.findByText("Pocket");
  await draw("a red house");
  await act(async () => made.scripted.last("image.generate").answer(resultOf([imageOf()], parameters)));
  return made;
}

test("again is the same with another seed; its settings bring back the seed, too", async () => {
  const { scripted } = await withPicture();
  await userEvent.click(button("Again: a red house"));
  expect(scripted.last("image.generate").params).toEqual({
    prompt: "a red house",
    options: { model: "pocket", output: { mode: "both" } },
  });
  await userEvent.clear(prompt());
  await userEvent.click(screen.getByText("Details"));
  expect(screen.getByText("Guidance", { selector: "dt" }).nextElementSibling?.textContent).toBe("4");
  await userEvent.click(button("Use settings: a red house"));
  expect(prompt().value).toBe("a red house");
  expect(screen.getByRole<HTMLInputElement>("textbox", { name: "Seed" }).value).toBe("42");
});

test("vary changes the picture itself, a little", async () => {
  const { scripted } = await withPicture();
  await userEvent.click(button("Vary: a red house"));
  const { params } = scripted.last("image.edit");
  expect(params).toMatchObject({ prompt: "a red house", image: { data: imageOf().data, mimeType: "image/png" } });
  expect(params.options).toMatchObject({ model: "pocket", strength: 0.5 });
  expect(params).not.toHaveProperty("mask");
});

test("what no model can change is not offered for it, and the reason is there", async () => {
  await withPicture([{ ...POCKET, modalities: ["text-to-image"] }]);
  for (const name of ["Vary: a red house", "Edit this: a red house"]) {
    expect([button(name).disabled, button(name).title]).toEqual([true, "No installed model can change a picture."]);
  }
});

test("edit this keeps the picture, takes strength and prompt, and a mask that stays until it is used", async () => {
  const { scripted, root } = await withPicture();
  await userEvent.click(button("Edit this: a red house"));
  screen.getByRole("application", { name: /Mask of 128 by 128 pixels/ });
  screen.getByRole("slider", { name: "How much" });
  await expectAccessible(root);
  expect(screen.queryByRole("textbox", { name: "Width" })).toBeNull();
  await userEvent.click(button("Leave it as it is"));
  expect(screen.queryByRole("application")).toBeNull();
  expect(scripted.asked.filter(({ method }) => method === "image.edit")).toHaveLength(0);
});

test("a model that follows instructions gets neither a mask nor a strength", async () => {
  const kontext = modelOf("flux.1-kontext-dev", { installed: true });
  const { scripted } = await withPicture([{ ...POCKET, modalities: ["text-to-image"] }, kontext]);
  await userEvent.click(button("Edit this: a red house"));
  expect(screen.queryByRole("application")).toBeNull();
  screen.getByText(/follows an instruction/);
  await userEvent.click(button("Change it"));
  const { params } = scripted.last("image.edit");
  expect(params.options.model).toBe("flux.1-kontext-dev");
  expect(params.options).not.toHaveProperty("strength");
  expect(params).not.toHaveProperty("mask");
});

const job = (changes: Partial<JobInfo>): JobInfo => ({
  jobId: "job-7",
  method: "image.generate",
  state: "running",
  requestId: 1,
  model: "pocket",
  ...changes,
});

test("after a reload a running job is followed, a finished one is in the gallery, others' kinds are left alone", async () => {
  const last = stepOf({ jobId: "job-7", step: 5, progress: 0.6, preview: previewOf(96, 64) });
  const jobs = [job({ last }), job({ jobId: "job-5", state: "done" }), job({ jobId: "job-4", method: "models.load" })];
  const { scripted, root } = await studio({ jobs, results: { "job-5": resultOf([imageOf()], {}, "job-5") } });
  await waitFor(() => expect(words()).toBe("Step 5 of 8"));
  expect(root.querySelector(".locara-frame")?.getAttribute("style")).toContain("aspect-ratio: 96 / 64");
  await within(screen.getByRole("region", { name: "Pictures" })).findByText("a red house");
  const attached = scripted.last("jobs.attach");
  expect(attached.params).toEqual({ jobId: "job-7" });
  await userEvent.click(button("Cancel"));
  expect(attached.cancelled).toBe(true);
  await act(async () => attached.answer(resultOf([imageOf()], { prompt: "two" }, "job-7")));
  expect(within(screen.getByRole("region", { name: "Pictures" })).getAllByRole("listitem")).toHaveLength(2);
  expect(scripted.asked.filter(({ method }) => method === "jobs.list")).toHaveLength(1);
});

test("what waited before a reload is named by its prompt, and its place has the picture's shape from the start", async () => {
  const sized = { prompt: "a blue boat", width: 256, height: 128 };
  const { scripted, root } = await studio({ jobs: [job({ ...sized }), job({ jobId: "job-8", state: "queued" })] });
  await waitFor(() => expect(scripted.asked.filter(({ method }) => method === "jobs.attach")).toHaveLength(2));
  const first = scripted.asked.find(({ method, params }) => method === "jobs.attach" && params.jobId === "job-7");
  const frame = () => root.querySelector(".locara-frame")?.getAttribute("style");
  expect(frame()).toContain("aspect-ratio: 256 / 128");
  act(() => first?.tell(stepOf({ jobId: "job-7", step: 5, preview: previewOf(64, 32) })));
  expect(frame()).toContain("aspect-ratio: 256 / 128");
  const queue = within(screen.getByRole("region", { name: "Queue" }));
  expect(queue.getAllByRole("listitem").map(({ textContent }) => textContent)).toEqual([
    expect.stringContaining("a blue boat"),
    expect.stringContaining("A picture of before"),
  ]);
});

test("an edit of before a reload, of which the picture is gone, cannot be repeated and says why", async () => {
  const parameters = { prompt: "blue", image: { sha256: "00", mimeType: "image/png" } };
  await studio({
    jobs: [job({ jobId: "job-5", state: "done" })],
    results: { "job-5": resultOf([imageOf()], parameters) },
  });
  const again = await screen.findByRole<HTMLButtonElement>("button", { name: "Again: blue" });
  expect([again.disabled, again.title]).toEqual([true, "The picture that it was made of is gone."]);
});

test("pictures are kept up to a number, the oldest go", async () => {
  const jobs = Array.from({ length: KEPT }, (_, at) => job({ jobId: `job-${at}`, state: "done" }));
  const results = Object.fromEntries(jobs.map(({ jobId }) => [jobId, resultOf([imageOf()], { prompt: jobId }, jobId)]));
  const { scripted, root } = await studio({ jobs, results });
  await waitFor(() => expect(root.querySelectorAll(".locara-picture")).toHaveLength(KEPT));
  await draw("new");
  await act(async () => scripted.last("image.generate").answer(resultOf()));
  expect(root.querySelectorAll(".locara-picture")).toHaveLength(KEPT);
  expect(root.textContent).not.toContain(`job-${KEPT - 1}`);
});
