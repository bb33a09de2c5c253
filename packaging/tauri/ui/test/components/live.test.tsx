import { CapabilityDenied, fromWire } from "@locara/image/core";
import { act, fireEvent, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, test, vi } from "vitest";
import { ImageProvider } from "../../src/context.js";
import { type Job, LivePreview, Queue } from "../../src/index.js";
import { asked, failed, finished, stepped } from "../../src/store/job.js";
import { expectAccessible } from "../support/axe.js";
import { imageOf, previewOf, resultOf, Scripted, stepOf } from "../support/scripted.js";

const NEW = asked("a", { kind: "generate", params: { prompt: "a red house" } }, { width: 128, height: 96 });
const running = stepped(NEW, stepOf({ step: 3, progress: 0.4, etaMs: 4000, preview: previewOf() }));
const wire = (kind: string, data: object = {}) => fromWire({ code: -1, message: "Said.", data: { kind, ...data } });

function shown(first: Job | undefined, props: Partial<Parameters<typeof LivePreview>[0]> = {}) {
  const { client } = new Scripted();
  const whole = (job: Job | undefined) => (
    <ImageProvider client={client}>
      <LivePreview job={job} {...props} />
    </ImageProvider>
  );
  const view = render(whole(first));
  return { root: view.container, change: (job: Job) => view.rerender(whole(job)) };
}

const words = () => document.querySelector(".locara-status-words")?.textContent;
const said = () => screen.getByRole("status").textContent;
const layer = (root: Element, name: string) => root.querySelector<HTMLImageElement>(`[data-layer=${name}]`);

test("before anything is drawn the place says what it is for", async () => {
  const { root } = shown(undefined);
  screen.getByText("Here the picture appears.");
  screen.getByText("Nothing is being drawn");
  await expectAccessible(root);
});

test("each phase is told, with steps, the time that is left and which picture of how many", async () => {
  const { change } = shown(NEW);
  expect(words()).toBe("Asking the engine…");
  const phases: [Parameters<typeof stepOf>[0], string][] = [
    [{ phase: "queued" }, "Waiting for its turn"],
    [{ phase: "loading" }, "Loading the model"],
    [{ phase: "encoding" }, "Reading the prompt"],
    [{ step: 3, etaMs: 4000 }, "Step 3 of 8 · about 4 s left"],
    [{ step: 3, image: 2, images: 4 }, "Picture 2 of 4 · Step 3 of 8"],
    [{ phase: "decoding", step: 8 }, "Finishing"],
    [{ phase: "saving", step: 8 }, "Saving"],
  ];
  for (const [changes, text] of phases) {
    change(stepped(NEW, stepOf(changes)));
    expect(words()).toBe(text);
  }
});

test("a screen reader hears phases and quarters, not every step", () => {
  const { change } = shown(NEW);
  const heard = new Set<string | null>();
  for (let step = 0; step <= 40; step++) {
    change(stepped(NEW, stepOf({ step, steps: 40, progress: step / 41 })));
    heard.add(said());
  }
  expect([...heard]).toEqual(["Drawing: 0 %", "Drawing: 25 %", "Drawing: 50 %", "Drawing: 75 %"]);
  change(finished(running, resultOf()));
  expect(said()).toBe("The picture is finished.");
});

test("the progress has a name, a value and words, and is accessible", async () => {
  const { root } = shown(running, { onCancel: () => {} });
  const bar = screen.getByRole("progressbar", { name: "Progress of the picture" });
  expect([bar.getAttribute("aria-valuenow"), bar.getAttribute("aria-valuetext")]).toEqual(["40", "Drawing: 25 %"]);
  await expectAccessible(root);
});

test("the last preview stays until the finished picture is decoded on top of it, in a box of one shape", async () => {
  const { root, change } = shown(running);
  const frame = root.querySelector<HTMLElement>(".locara-frame");
  const shape = frame?.getAttribute("style");
  expect(shape).toContain("aspect-ratio: 128 / 96");
  const preview = layer(root, "preview")?.src;
  change(stepped(running, stepOf({ phase: "decoding", step: 8 })));
  expect(layer(root, "preview")?.src).toBe(preview);
  change(finished(running, resultOf([imageOf({ width: 128, height: 96 })])));
  const final = layer(root, "final");
  expect(layer(root, "preview")?.src).toBe(preview);
  expect(final?.style.opacity).toBe("0");
  if (final) {
    final.decode = () => Promise.resolve();
    await act(async () => void fireEvent.load(final));
  }
  expect(layer(root, "final")?.style.opacity).toBe("1");
  expect(layer(root, "preview")).toBeNull();
  expect(root.querySelector(".locara-frame")).toBe(frame);
  expect(frame?.getAttribute("style")).toBe(shape);
  screen.getByText("Done in 3.2 s · 128 × 96 · seed 42");
  screen.getByRole("img", { name: "a red house" });
  await expectAccessible(root);
});

test("a picture that this page cannot show keeps its preview and says where it is", () => {
  const { data: _, ...saved } = imageOf();
  const { root } = shown(finished(running, resultOf([saved])));
  screen.getByText(/saved as \/home\/a\/Pictures\/one.png/);
  expect(layer(root, "preview")).not.toBeNull();
});

test("a picture whose file is gone keeps its preview and says where it was", () => {
  const { root } = shown(finished(running, resultOf()));
  const final = layer(root, "final");
  if (final) fireEvent.error(final);
  screen.getByText(/This page cannot show it/);
  expect(layer(root, "final")).toBeNull();
  expect(layer(root, "preview")).not.toBeNull();
});

test("cancel is there as long as something is drawn, once", async () => {
  const onCancel = vi.fn();
  const { change } = shown(running, { onCancel });
  await userEvent.click(screen.getByRole("button", { name: "Cancel" }));
  expect(onCancel).toHaveBeenCalledTimes(1);
  change({ ...running, stopping: true });
  expect(words()).toBe("Cancelling…");
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Cancel" }).disabled).toBe(true);
  change(failed(running, wire("RequestCancelled")));
  expect(words()).toBe("Cancelled");
  expect(said()).toBe("Cancelled");
});

test("a cancel keeps the pictures that were finished", () => {
  shown(failed(running, wire("RequestCancelled", { images: [imageOf(), imageOf()] })));
  expect(words()).toBe("Cancelled; 2 pictures are finished");
});

test("a crashed engine is told with what is safe, and can be tried again", async () => {
  const onTryAgain = vi.fn();
  const { root } = shown(failed(running, wire("EngineCrashed", { status: 70, phase: "denoising" })), { onTryAgain });
  screen.getByRole("heading", { name: "The engine crashed" });
  screen.getByText(/ended with status 70 while denoising. It starts anew/);
  await userEvent.click(screen.getByRole("button", { name: "Try again" }));
  expect(onTryAgain).toHaveBeenCalledTimes(1);
  expect(said()).toBe("The engine crashed");
  await expectAccessible(root);
});

test("a denied picture shows what locara.json lacks", async () => {
  const declare = { capabilities: { models: ["sd3.5-medium"] } };
  const error = wire("CapabilityDenied", { reason: "notDeclared", declare });
  expect(error).toBeInstanceOf(CapabilityDenied);
  const { root } = shown(failed(NEW, error), { onTryAgain: () => {} });
  expect(screen.queryByRole("button", { name: "Try again" })).toBeNull(); // it would be denied again
  expect(screen.getByRole("group", { name: "What locara.json lacks" }).textContent).toBe(
    JSON.stringify(declare, null, 2),
  );
  await expectAccessible(root);
});

test("warnings of a finished picture are told", () => {
  const warnings = [{ kind: "PromptTruncated", message: "The last words were not read." }];
  shown(finished(running, { ...resultOf(), warnings }));
  screen.getByText("The last words were not read.");
});

const queue = (jobs: Job[], props: Partial<Parameters<typeof Queue>[0]> = {}) =>
  render(<Queue jobs={jobs} onCancel={() => {}} onDismiss={() => {}} {...props} />);

test("a denied picture in the queue is told, and another try is not offered", () => {
  const denied = { ...failed(NEW, wire("CapabilityDenied", { reason: "notDeclared" })), key: "denied" };
  queue([running, denied], { shown: running.key, onTryAgain: () => {}, onShow: () => {} });
  screen.getByText("This app may not do that");
  screen.getByRole("button", { name: "Why it failed: a red house" });
  expect(screen.queryByRole("button", { name: "Try again: a red house" })).toBeNull();
});

test("the queue is in the order of turns, told by number, and each can be cancelled", async () => {
  const onCancel = vi.fn();
  const job = (key: string, changes: Partial<Job>): Job => ({
    ...asked(key, { kind: "generate", params: { prompt: key } }, { width: 1, height: 1 }),
    ...changes,
  });
  const waiting = { state: "queued", step: stepOf({ phase: "queued" }) } as const;
  const view = queue([job("third", waiting), job("second", waiting), job("first", { ...running, key: "first" })], {
    onCancel,
  });
  expect(screen.getAllByRole("listitem").map((item) => item.textContent)).toEqual([
    "a red houseStep 3 of 8 · about 4 s leftCancel",
    "secondWaiting for its turnCancel",
    "thirdWaiting, number 2 in lineCancel",
  ]);
  await userEvent.click(screen.getByRole("button", { name: "Cancel: third" }));
  expect(onCancel).toHaveBeenCalledWith(expect.objectContaining({ key: "third" }));
  await expectAccessible(view.container);
});

test("a failure out of sight stays until it is dismissed; the one that is shown is not told twice", async () => {
  const onDismiss = vi.fn();
  const broken = { ...failed(NEW, wire("EngineCrashed")), key: "broken" };
  const view = queue([running, broken], { shown: running.key, onDismiss, onTryAgain: () => {}, onShow: () => {} });
  screen.getByText("The engine crashed");
  await expectAccessible(view.container);
  await userEvent.click(screen.getByRole("button", { name: "Dismiss: a red house" }));
  expect(onDismiss).toHaveBeenCalledTimes(1);
  view.rerender(<Queue jobs={[broken]} shown="broken" onCancel={() => {}} onDismiss={() => {}} />);
  expect(screen.queryByRole("heading", { name: "Queue" })).toBeNull();
});
