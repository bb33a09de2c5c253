// Models, jobs, the record and the process itself, with the real daemon and the fake engine.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { after, test } from "node:test";
import {
  type DiffusionStep,
  type ModelProgress,
  RemoteError,
  RequestCancelled,
  Sidecar,
  SidecarGoneError,
} from "@locara/image/node";
import { command, failure, gate, opened, PROMPT, stepsOf, until } from "./support.js";

const alive = (pid: number) =>
  existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
const linux = { skip: existsSync("/proc/self/status") ? false : "needs /proc" };

const { sidecar } = await opened({ after });

test("models: list, get, load with progress, verify, unload; without the host's permission a call is denied", async () => {
  const [pocket] = await sidecar.models.list();
  assert.equal(pocket?.id, "pocket");
  assert.equal((await sidecar.models.get("pocket")).displayName, pocket.displayName);
  const seen: ModelProgress[] = [];
  const loaded = await sidecar.models.load({ model: "pocket", onProgress: (progress) => seen.push(progress) });
  assert.equal(loaded.model, "pocket");
  assert.ok(seen.some(({ phase }) => phase === "loading"));
  assert.equal(await sidecar.models.unload(), true);
  const verifying: string[] = [];
  for await (const { phase } of sidecar.models.verify({ model: "pocket" })) verifying.push(phase);
  assert.ok(verifying.length > 0);
  const denied = (await failure(sidecar.models.download({ model: "pocket" }))) as RemoteError;
  assert.deepEqual([denied.kind, denied.data["reason"]], ["CapabilityDenied", "hostFlag"]);
  assert.equal(((await failure(sidecar.models.gc())) as RemoteError).kind, "CapabilityDenied");
  assert.equal(typeof (await sidecar.models.usage()).bytes, "number");
});

test("loading a model can be cancelled", async (t) => {
  const { sidecar } = await opened(t, { env: { ...process.env, LOCARA_FAKE_FAULTS: "fake:load=60000" } });
  const controller = new AbortController();
  const onProgress = ({ phase }: ModelProgress) => phase === "loading" && controller.abort();
  assert.ok(
    (await failure(sidecar.models.load({ model: "pocket", signal: controller.signal, onProgress }))) instanceof
      RequestCancelled,
  );
});

test("a job is found again, followed to its end, and gets the same answer as its own call", async () => {
  const running = gate();
  const own: DiffusionStep[] = [];
  const call = sidecar.image.generate({
    prompt: "fake:slow=150 a",
    options: { steps: 8 },
    onStep: (step) => {
      own.push(step);
      if (step.step === 2) running.open();
    },
  });
  await running.opened;
  const [job] = await sidecar.jobs.list();
  assert.ok(job?.state === "running" && job.last?.preview !== undefined);
  const seen: DiffusionStep[] = [];
  const result = await sidecar.jobs.attach(job.jobId, { onStep: (step) => seen.push(step) });
  assert.deepEqual(result, await call);
  assert.equal(seen[0]?.step, stepsOf(own).at(-1));
  assert.deepEqual([seen.at(-1)?.progress, stepsOf(seen).at(-1)], [1, 8]);
  assert.deepEqual(await sidecar.jobs.result(job.jobId), result);
  const later: DiffusionStep[] = [];
  for await (const step of sidecar.jobs.attach(job.jobId)) later.push(step);
  assert.deepEqual(
    later.map(({ progress }) => progress),
    [1],
  );
  assert.deepEqual(sidecar.open, { requests: 0, channels: 0 });
});

test("cancelling an attached call cancels the job, and so does cancelling by id", async () => {
  for (const cancel of ["signal", "id"]) {
    const own = failure(sidecar.image.generate({ prompt: "fake:slow=100 a", options: { steps: 200 } }));
    const [job] = (await sidecar.jobs.list()).filter(({ state }) => state !== "cancelled");
    const controller = new AbortController();
    const attached = failure(sidecar.jobs.attach(job?.jobId ?? "", { signal: controller.signal }));
    if (cancel === "signal") controller.abort();
    else assert.deepEqual(await sidecar.image.cancel(job?.jobId ?? ""), { cancelled: true });
    assert.ok((await attached) instanceof RequestCancelled);
    assert.ok((await own) instanceof RequestCancelled);
  }
});

test("the record shows what was allowed and denied; the session shows what was granted", async () => {
  await sidecar.image.generate({ prompt: PROMPT });
  await failure(sidecar.image.generate({ prompt: PROMPT, options: { model: "sd3.5-medium" } }));
  const entries = await sidecar.audit.capabilityLog();
  assert.deepEqual([...new Set(entries.map(({ decision }) => decision))].sort(), ["allow", "deny"]);
  assert.ok(sidecar.session.app.granted.includes("model:pocket"));
  assert.equal(typeof (await sidecar.system.info()).version, "string");
});

test("close answers what runs, and the daemon and its engine are gone within seconds", linux, async (t) => {
  const { sidecar } = await opened(t);
  const running = gate();
  const call = failure(
    sidecar.image.generate({
      prompt: "fake:slow=60000 a",
      onStep: ({ phase }) => phase === "denoising" && running.open(),
    }),
  );
  await running.opened;
  const engine = (await sidecar.system.ping()).engine.pid ?? assert.fail("no engine");
  const daemon = sidecar.pid ?? assert.fail("no daemon");
  const began = Date.now();
  assert.deepEqual(await sidecar.close(), { status: 0, signal: null });
  assert.ok((await call) instanceof RequestCancelled);
  assert.ok(Date.now() - began < 10_000);
  await until(() => !alive(daemon) && !alive(engine), "both are gone");
  assert.ok((await failure(sidecar.system.ping())) instanceof SidecarGoneError);
  assert.deepEqual(await sidecar.close(), { status: 0, signal: null });
});

test("a daemon that is killed fails its calls, with the end of its log", async (t) => {
  const { sidecar } = await opened(t, { command: command("fake", "--log-level", "debug") });
  const running = gate();
  const call = failure(sidecar.image.generate({ prompt: "fake:slow=60000 a", onStep: running.open }));
  await running.opened;
  process.kill(sidecar.pid ?? 0, "SIGKILL");
  const error = (await call) as SidecarGoneError;
  assert.ok(error instanceof SidecarGoneError);
  assert.equal(error.signal, "SIGKILL");
  assert.match(error.stderr, /"level"/);
  assert.deepEqual(await sidecar.exited, { status: null, signal: "SIGKILL" });
});

test("a sidecar that does not end when its stdin does is killed after two seconds", async () => {
  const answer = '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}';
  const script = `process.stdin.once("data", () => console.log('${answer}')).resume(); process.on("SIGTERM", () => {}); setInterval(() => {}, 1000);`;
  const sidecar = await Sidecar.start({ command: [process.execPath, "-e", script] });
  const began = Date.now();
  assert.deepEqual(await sidecar.close(), { status: null, signal: "SIGKILL" });
  assert.ok(Date.now() - began >= 1900);
});

test("a sidecar whose child keeps its pipes open is gone once it has ended", { timeout: 20_000 }, async () => {
  const script = `require("node:child_process").spawn(process.execPath, ["-e", "setTimeout(() => {}, 15000)"], { stdio: "inherit" }); process.stdout.write("{}\\n"); setTimeout(() => process.exit(3), 200);`;
  const began = Date.now();
  const error = (await failure(Sidecar.start({ command: [process.execPath, "-e", script] }))) as SidecarGoneError;
  assert.ok(error instanceof SidecarGoneError);
  assert.equal(error.status, 3);
  assert.ok(Date.now() - began < 12_000);
});

test("a sidecar that cannot be started, or ends at once, says why", async () => {
  const missing = (await failure(Sidecar.start({ command: ["/nowhere/locara-sidecar"] }))) as SidecarGoneError;
  assert.ok(missing instanceof SidecarGoneError);
  assert.equal((missing.cause as NodeJS.ErrnoException).code, "ENOENT");
  const refused = (await failure(Sidecar.start({ command: command("fake", "--no-such-flag") }))) as SidecarGoneError;
  assert.ok(refused instanceof SidecarGoneError);
  assert.equal(refused.status, 2);
  assert.match(refused.stderr, /no-such-flag/);
});

test("a session that is refused rejects with the error, and the process is gone", linux, async () => {
  const manifest = { schema: "locara/v0" } as never;
  const error = (await failure(Sidecar.start({ command: command(), manifest }))) as RemoteError;
  assert.ok(error instanceof RemoteError);
  assert.equal(error.kind, "InvalidParams");
});

test("stderr is always read, and each line of the log is passed on", async (t) => {
  const lines: unknown[] = [];
  const { sidecar } = await opened(t, {
    command: command("fake", "--log-level", "debug"),
    onLog: (line) => lines.push(line),
  });
  await sidecar.image.generate({ prompt: "fake:stderr a", options: { steps: 40 } });
  await sidecar.close();
  assert.ok(lines.length > 100);
  assert.ok(lines.every((line) => typeof (line as { level?: unknown }).level === "string"));
});

test("no descriptor and no child is left after several sessions", linux, async (t) => {
  const { readdirSync } = await import("node:fs");
  const open = () =>
    readdirSync("/proc/self/fd").filter((fd) => {
      try {
        return (
          readlinkSync(`/proc/self/fd/${fd}`).startsWith("pipe:") ||
          readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:")
        );
      } catch {
        return false;
      }
    }).length;
  await (await Sidecar.start({ command: command() })).close();
  const before = open();
  for (let number = 0; number < 4; number++) await (await Sidecar.start({ command: command() })).close();
  await until(() => open() <= before, "the pipes are closed");
  t.diagnostic(`${before} pipes and sockets before and after`);
});
