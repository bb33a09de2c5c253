// The Tauri layer with the `invoke` and `Channel` of @tauri-apps/api, that package's own mock of the web view, and in place of
// the plugin a bridge to the real daemon, which handles channels as Tauri's Rust side does.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import {
  CapabilityDenied,
  ClientError,
  commandOf,
  type DiffusionStep,
  type InvalidParams,
  ProtocolViolationError,
  RemoteError,
  RequestCancelled,
  type Sent,
  SidecarGoneError,
  tauriClient,
} from "@locara/image/tauri";
import type { Channel } from "@tauri-apps/api/core";
import { mockIPC } from "@tauri-apps/api/mocks";
import { failure, gate, type Opened, opened, PROMPT, stepsOf, until } from "./support.js";

type Frame = { index: number; message: unknown } | { index: number; end: true };
interface Internals {
  runCallback: (id: number, frame: Frame) => void;
  callbacks: Map<number, unknown>;
}

Object.assign(globalThis, { window: globalThis });
const internals = () => (globalThis as unknown as { __TAURI_INTERNALS__: Internals }).__TAURI_INTERNALS__;

interface Payload {
  params: { jobId?: string };
  requestId: string;
  channel: Channel<unknown>;
}

/** Acts as the plugin; `deliver` carries the frames to the web view. */
function plugin({ sidecar }: Opened, deliver: (send: () => void) => void = (send) => send()) {
  const running = new Map<string, Sent>();
  const methods: Record<string, string> = {
    generate: "image.generate",
    edit: "image.edit",
    cancel: "image.cancel",
    audit_capability_log: "audit.capabilityLog",
  };
  mockIPC(async (command, given) => {
    const name = command.replace("plugin:locara-diffusion|", "");
    const { params, requestId, channel } = JSON.parse(JSON.stringify(given)) as Omit<Payload, "channel"> & {
      channel?: string;
    };
    if (name === "cancel_request") return running.get(requestId)?.cancel();
    if (name.startsWith("host_")) throw `Command ${name} not allowed by ACL`;
    const method = (methods[name] ?? name.replace("_", ".")) as "image.generate";
    const transport = sidecar.transport();
    let messages = 0;
    const callback = Number(channel?.replace("__CHANNEL__:", ""));
    const page = internals(); // a page that is gone receives nothing
    const send = (frame: Frame) => deliver(() => page.runCallback(callback, frame));
    const forward = channel && ((message: unknown) => send({ index: messages++, message }));
    const call =
      name === "jobs_attach"
        ? transport.attach(params.jobId ?? "", forward || (() => {}))
        : transport.start(method, params, forward || undefined);
    running.set(requestId, call);
    try {
      const result = await call.answer;
      return forward ? { result, messages } : result;
    } catch (error) {
      const { code, message, data } = error as InvalidParams;
      throw { code, message, data };
    } finally {
      running.delete(requestId);
      if (forward) send({ index: messages, end: true });
    }
  });
}

/** Simulates a reload: nothing of the old page is left. */
function reload(...given: Parameters<typeof plugin>) {
  Object.assign(globalThis, { __TAURI_INTERNALS__: {} });
  plugin(...given);
  return tauriClient();
}

beforeEach(() => Object.assign(globalThis, { __TAURI_INTERNALS__: {} }));

test("each method has the command that README.md names", () => {
  const methods = ["image.generate", "image.cancel", "models.list", "jobs.result", "audit.capabilityLog"];
  const commands = ["generate", "cancel", "models_list", "jobs_result", "audit_capability_log"];
  assert.deepEqual(methods.map(commandOf), commands);
});

test("steps arrive in order and complete, and no callback is left", async (t) => {
  const { image } = reload(await opened(t));
  const steps: DiffusionStep[] = [];
  const result = await image.generate({ prompt: PROMPT, options: { steps: 6 }, onStep: (step) => steps.push(step) });
  assert.equal(result.images.length, 1);
  assert.deepEqual(stepsOf(steps), [1, 2, 3, 4, 5, 6]);
  assert.equal(steps.at(-1)?.progress, 1);
  const looped: DiffusionStep[] = [];
  for await (const step of image.generate({ prompt: PROMPT, options: { steps: 3 } })) looped.push(step);
  assert.deepEqual(stepsOf(looped), [1, 2, 3]);
  assert.equal(internals().callbacks.size, 0);
});

test("frames that arrive shuffled, and after the answer, are delivered in order before the call settles", async (t) => {
  const held: (() => void)[] = [];
  const { image } = reload(await opened(t), (send) => {
    held.push(send);
    if (held.length === 1)
      setTimeout(
        () =>
          held
            .splice(0)
            .reverse()
            .forEach((late) => void late()),
        400,
      );
  });
  const steps: DiffusionStep[] = [];
  await image.generate({ prompt: PROMPT, options: { steps: 4 }, onStep: (step) => steps.push(step) });
  assert.deepEqual(stepsOf(steps), [1, 2, 3, 4]);
  assert.equal(steps.at(-1)?.progress, 1);
  await until(() => internals().callbacks.size === 0, "the channel is closed");
});

test("a lost frame blocks nobody forever", async (t) => {
  let count = 0;
  const { image } = reload(await opened(t), (send) => count++ !== 1 && send());
  const steps: DiffusionStep[] = [];
  assert.equal((await image.generate({ prompt: PROMPT, onStep: (step) => steps.push(step) })).images.length, 1);
  assert.equal(steps.length, 1);
});

test("a signal cancels, errors have their kind, a refused command is an error, and no callback is left", async (t) => {
  const { image, models, audit } = reload(await opened(t));
  const controller = new AbortController();
  const onStep = ({ step }: DiffusionStep) => step === 1 && controller.abort();
  const call = image.generate({
    prompt: "fake:slow=200 a",
    options: { steps: 100 },
    signal: controller.signal,
    onStep,
  });
  assert.ok((await failure(call)) instanceof RequestCancelled);
  assert.ok(
    (await failure(image.generate({ prompt: PROMPT, options: { model: "sd3.5-medium" } }))) instanceof CapabilityDenied,
  );
  assert.equal(((await failure(image.generate({ prompt: "" }))) as InvalidParams).path, "$.prompt");
  assert.equal((await models.list())[0]?.id, "pocket");
  assert.ok((await audit.capabilityLog({ limit: 1000 })).length >= 2);
  const loading: string[] = [];
  await models.load({ model: "pocket", onProgress: ({ phase }) => loading.push(phase) });
  assert.ok(loading.length > 0);
  assert.equal(internals().callbacks.size, 0);
  mockIPC(() => Promise.reject("Command generate not allowed by ACL"));
  const refused = await failure(image.generate({ prompt: PROMPT }));
  assert.ok(refused instanceof ClientError);
  assert.match(refused.message, /not allowed by ACL/);
});

test("the plugin's errors about the sidecar are not mistaken for the sidecar's own", async () => {
  const rejections = [
    {
      code: -32000,
      message: "It ended.",
      data: { kind: "SidecarGone", retryable: true, status: null, signal: "SIGKILL" },
    },
    { code: -32000, message: "It ended.", data: { kind: "SidecarGone", retryable: true, status: 2, signal: null } },
    { code: -32000, message: "A hole.", data: { kind: "ProtocolViolation", retryable: false } },
    { code: -32000, message: "No dialogs.", data: { kind: "NoDialog", retryable: false } },
  ];
  const failures: unknown[] = [];
  for (const rejection of rejections) {
    mockIPC(() => Promise.reject(rejection));
    failures.push(await failure(tauriClient().models.list()));
  }
  const [killed, ended, violation, other] = failures;
  assert.ok(killed instanceof SidecarGoneError && ended instanceof SidecarGoneError);
  assert.deepEqual([killed.signal, killed.status, ended.signal, ended.status], ["SIGKILL", null, null, 2]);
  assert.ok(violation instanceof ProtocolViolationError);
  assert.ok(other instanceof RemoteError && other.kind === "NoDialog");
  assert.deepEqual(
    failures.map((error) => (error as Error).message),
    ["It ended.", "It ended.", "A hole.", "No dialogs."],
  );
});

test("after a reload during a job, the new page finds the job with its preview, follows it and gets its result", async (t) => {
  const session = await opened(t);
  const before = reload(session);
  const running = gate();
  const lost = before.image.generate({
    prompt: "fake:slow=250 a",
    options: { steps: 8 },
    onStep: ({ step }) => step === 2 && running.open(),
  });
  lost.catch(() => {});
  await running.opened;

  const after = reload(session);
  const [job] = await after.jobs.list();
  assert.equal(job?.state, "running");
  assert.ok(job?.last?.preview);
  const steps: DiffusionStep[] = [];
  const result = await after.jobs.attach(job?.jobId ?? "", { onStep: (step) => steps.push(step) });
  assert.ok("images" in result && result.images.length === 1);
  assert.equal(steps[0]?.step, 2);
  assert.deepEqual([stepsOf(steps).at(-1), steps.at(-1)?.progress], [8, 1]);
  assert.deepEqual(await after.jobs.result(job?.jobId ?? ""), result);
  assert.equal(internals().callbacks.size, 0);
});

test("after a reload a job can be cancelled, by a signal or by its id", async (t) => {
  const session = await opened(t);
  for (const way of ["signal", "id"]) {
    const lost = failure(reload(session).image.generate({ prompt: "fake:slow=100 a", options: { steps: 200 } }));
    const after = reload(session);
    await until(async () => (await after.jobs.list()).some(({ state }) => state === "running"), "the job runs");
    const jobId = (await after.jobs.list()).find(({ state }) => state === "running")?.jobId ?? "";
    const controller = new AbortController();
    const attached = failure(after.jobs.attach(jobId, { signal: controller.signal }));
    if (way === "signal") controller.abort();
    else await after.image.cancel(jobId);
    assert.ok((await attached) instanceof RequestCancelled);
    assert.ok((await lost) instanceof RequestCancelled);
  }
});

test("the package's own image and errors work in the web view without setup", async (t) => {
  reload(await opened(t));
  const sdk = await import("@locara/image");
  const result = await sdk.image.generate({ prompt: PROMPT });
  assert.equal(result.images.length, 1);
  const denied = await failure(sdk.image.generate({ prompt: PROMPT, options: { model: "sd3.5-medium" } }));
  assert.ok(denied instanceof sdk.CapabilityDenied);
  const { sidecar } = await opened(t);
  sdk.setClient(sidecar);
  assert.deepEqual(await sdk.jobs.list(), []);
});
