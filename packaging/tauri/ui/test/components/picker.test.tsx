import type { EngineInfo, Model } from "@locara/image/core";
import { act, cleanup, render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, test, vi } from "vitest";
import { ImageProvider } from "../../src/context.js";
import { ModelPicker, type ModelPickerProps, ModelStore } from "../../src/index.js";
import { expectAccessible } from "../support/axe.js";
import { MODELS, modelOf, POCKET, Scripted, type Setting } from "../support/scripted.js";

async function picker(setting: Setting = {}, props: Partial<ModelPickerProps> = {}) {
  const scripted = new Scripted(setting);
  const view = render(
    <ImageProvider client={scripted.client}>
      <ModelPicker onSelect={() => {}} {...props} />
    </ImageProvider>,
  );
  await screen.findByRole("group", { name: "Model" });
  return { scripted, root: view.container };
}

const entry = (name: string) => {
  const found = screen.getByRole("radio", { name }).closest("li");
  if (found === null) throw new Error(`${name} stands in no list.`);
  return within(found);
};

const progress = (bytes: number, phase = "downloading") => ({
  model: "sd3.5-medium",
  phase,
  bytes,
  totalBytes: 16_000_000_000,
  files: 1,
  totalFiles: 9,
  bytesPerSecond: 12_000_000,
  etaMs: 1_100_000,
});

test("with nothing installed the model that suits the machine is offered first", async () => {
  const models = MODELS.filter(({ id }) => id !== "pocket");
  const { scripted, root } = await picker({ models });
  screen.getByRole("heading", { name: "No model is installed yet" });
  screen.getByText(/Stable Diffusion 3.5 Medium suits this machine. It takes 16.3 GB on the disk/);
  await userEvent.click(screen.getByRole("button", { name: "Download Stable Diffusion 3.5 Medium" }));
  expect(scripted.last("models.download").params).toEqual({ model: "sd3.5-medium" });
  expect(screen.queryByRole("button", { name: "Download Stable Diffusion 3.5 Medium" })).toBeNull();
  await expectAccessible(root);
});

test("size, licence, fit and what is recommended are told of each model", async () => {
  const { root } = await picker({ models: MODELS });
  const medium = entry("Stable Diffusion 3.5 Medium");
  medium.getByText("Recommended");
  medium.getByText("Fits");
  medium.getByText(/Needs 12.6 GB; 22.0 GB are free/);
  medium.getByText(/16.3 GB on disk/);
  medium.getByText(/needs an access token/);
  expect(medium.getByRole("link", { name: "Stability AI Community License" }).getAttribute("href")).toMatch(/^https:/);
  expect(entry("FLUX.1 schnell").queryByText("Recommended")).toBeNull();
  await expectAccessible(root);
});

test("a non-commercial licence is told plainly, another is not called so", async () => {
  await picker({ models: MODELS });
  entry("FLUX.1 dev").getByText("Non-commercial");
  entry("FLUX.1 dev").getByText(/does not allow commercial use/);
  expect(entry("FLUX.1 schnell").queryByText("Non-commercial")).toBeNull();
});

test("what is tight and what does not fit says so in numbers", async () => {
  const tight = (model: Model, fit: "tight" | "no") => {
    const rows = model.fit.map((row) => ({ ...row, fit, available: 8_000_000_000 }));
    return { ...model, fit: rows, recommended: fit === "no" ? null : (rows[1] ?? null) };
  };
  const models = [tight(modelOf("sd3.5-medium"), "tight"), tight(modelOf("flux.1-schnell"), "no"), POCKET];
  const { root } = await picker({ models });
  entry("Stable Diffusion 3.5 Medium").getByText("Tight");
  entry("FLUX.1 schnell").getByText("Does not fit");
  entry("FLUX.1 schnell").getByText(/at least 13.9 GB .* can give 8.0 GB/);
  await expectAccessible(root);
});

test("where nothing fits, no model is suggested, and each can be downloaded all the same", async () => {
  const models = [modelOf("sd3.5-medium"), modelOf("flux.1-schnell")].map((model) => ({
    ...model,
    fit: model.fit.map((row) => ({ ...row, fit: "no" as const })),
    recommended: null,
  }));
  const { root } = await picker({ models });
  screen.getByText("None of the models below fits this machine.");
  expect(screen.queryByText("Recommended")).toBeNull();
  expect(screen.getAllByText("Does not fit")).toHaveLength(2);
  expect(screen.getAllByRole("button", { name: /^Download/ })).toHaveLength(2);
  await expectAccessible(root);
});

test("only what is installed can be chosen, with the keyboard too", async () => {
  const onSelect = vi.fn();
  const models = [modelOf("sd3.5-medium"), modelOf("sdxl-lightning", { installed: true }), POCKET];
  await picker({ models }, { onSelect, selected: "pocket" });
  expect(screen.getByRole<HTMLInputElement>("radio", { name: "Stable Diffusion 3.5 Medium" }).disabled).toBe(true);
  await userEvent.click(screen.getByRole("radio", { name: "SDXL Lightning" }));
  expect(onSelect).toHaveBeenCalledWith("sdxl-lightning");
});

test("a disk that is too full is told before a download is asked for, with numbers", async () => {
  const models = [modelOf("sd3.5-medium"), modelOf("sdxl-lightning"), POCKET];
  const { root } = await picker({ models, freeBytes: 8_000_000_000 });
  const medium = entry("Stable Diffusion 3.5 Medium");
  medium.getByText("Disk too full");
  medium.getByText(/Needs 16.3 GB on the disk, where 8.0 GB are free/);
  for (const name of ["SDXL Lightning", "Pocket"]) expect(entry(name).queryByText("Disk too full")).toBeNull();
  expect(medium.getByRole<HTMLButtonElement>("button", { name: /^Download/ }).disabled).toBe(false);
  const facts = document.getElementById(
    screen.getByRole("radio", { name: "Stable Diffusion 3.5 Medium" }).getAttribute("aria-describedby") ?? "",
  );
  expect(facts?.textContent).toContain("8.0 GB are free");
  await expectAccessible(root);
});

test("what the suggested model lacks of room stands where it is suggested; of an unknown disk nothing is said", async () => {
  const models = [modelOf("sd3.5-medium")];
  const { root } = await picker({ models, freeBytes: 0 });
  const note = screen.getByRole("heading", { name: "No model is installed yet" }).closest("section");
  expect(note?.textContent).toContain("Needs 16.3 GB on the disk, where 0 bytes are free");
  await expectAccessible(root);
  cleanup();
  await picker({ models });
  expect(screen.queryByText("Disk too full")).toBeNull();
});

test("a download that has begun needs only the rest", async () => {
  const { scripted } = await picker({ models: [modelOf("sd3.5-medium"), POCKET], freeBytes: 5_000_000_000 });
  const medium = entry("Stable Diffusion 3.5 Medium");
  medium.getByText("Disk too full");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  const call = scripted.last("models.download");
  act(() => call.tell(progress(12_000_000_000)));
  expect(medium.queryByText("Disk too full")).toBeNull();
  scripted.setting = { ...scripted.setting, freeBytes: 4_200_000_000 };
  await act(async () => call.fail("RequestCancelled", "Cancelled."));
  expect(medium.queryByText("Disk too full")).toBeNull();

  // what others have written since counts, too
  await userEvent.click(medium.getByRole("button", { name: /^Resume/ }));
  scripted.setting = { ...scripted.setting, freeBytes: 1_000_000_000 };
  await act(async () => scripted.last("models.download").fail("DownloadFailed", "The connection broke."));
  medium.getByText("Disk too full");
  medium.getByText(/Needs 4.0 GB on the disk, where 1.0 GB are free/);
});

test("a download tells how far it is and how much room it needs, can be paused, and goes on where it stopped", async () => {
  const { scripted, root } = await picker({ models: [modelOf("sd3.5-medium"), POCKET] });
  const medium = entry("Stable Diffusion 3.5 Medium");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  const first = scripted.last("models.download");
  act(() => first.tell(progress(4_000_000_000)));
  const bar = medium.getByRole("progressbar");
  expect(bar.getAttribute("aria-valuenow")).toBe("25");
  medium.getByText("4.0 GB of 16.0 GB · 12.0 MB a second · about 18 min left");
  medium.getByText(/12.0 GB more room on the disk/);
  expect(medium.getByRole("status").textContent).toBe("Downloading: 20 %");
  await expectAccessible(root);

  await userEvent.click(medium.getByRole("button", { name: /^Pause/ }));
  expect(first.cancelled).toBe(true);
  await act(async () => first.fail("RequestCancelled", "Cancelled."));
  medium.getByText(/Paused at 4.0 GB of 16.0 GB. What has arrived is kept./);
  await expectAccessible(root);

  await userEvent.click(medium.getByRole("button", { name: /^Resume/ }));
  const second = scripted.last("models.download");
  expect(second).not.toBe(first);
  act(() => second.tell(progress(0, "resolving")));
  expect(medium.getByRole("progressbar").getAttribute("aria-valuenow")).toBe("25");

  scripted.setting = { models: [modelOf("sd3.5-medium", { installed: true }), POCKET] };
  await act(async () => second.answer({ model: "sd3.5-medium", digest: "", bytes: 1, files: 9 }));
  medium.getByText("Installed");
  expect(medium.queryByRole("progressbar")).toBeNull();
});

test("a download that begins or ends while the models are asked for anew is not forgotten", async () => {
  const scripted = new Scripted({ models: [modelOf("sd3.5-medium"), POCKET] });
  const models = new ModelStore(scripted.client);
  let tell: (engines: []) => void = () => {};
  scripted.setting = { ...scripted.setting, engines: new Promise((resolve) => (tell = resolve)) };
  const refreshed = models.refresh();
  await new Promise((resolve) => setTimeout(resolve)); // the models are told, the engines are not
  const downloaded = models.download("sd3.5-medium");
  await act(async () => tell([]));
  await refreshed;
  expect(models.get().transfers["sd3.5-medium"]?.state).toBe("running");
  scripted.last("models.download").answer({ model: "sd3.5-medium", digest: "", bytes: 1, files: 9 });
  await downloaded;
  expect(models.get().transfers).toEqual({});
});

test("with no room on the disk it says how much is missing, once, keeps what has arrived and can go on", async () => {
  const { scripted, root } = await picker({ models: [modelOf("sd3.5-medium")], freeBytes: 900_000_000 });
  const medium = entry("Stable Diffusion 3.5 Medium");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  const call = scripted.last("models.download");
  act(() => call.tell(progress(4_000_000_000)));
  await act(async () =>
    call.fail("InsufficientDisk", "The disk is full.", { needed: 12_000_000_000, available: 900_000_000 }),
  );
  medium.getByRole("heading", { name: "Not enough room on the disk" });
  medium.getByText("12.0 GB are needed, 900 MB are free.");
  medium.getByText(/Stopped at 4.0 GB of 16.0 GB/);
  expect(screen.getAllByText(/900 MB are free/)).toHaveLength(1);
  expect(screen.getAllByRole("button", { name: /^Resume the download of Stable Diffusion 3.5 Medium/ })).toHaveLength(
    2,
  );
  await userEvent.click(medium.getByRole("button", { name: /^Resume/ }));
  expect(scripted.last("models.download")).not.toBe(call);
  expect(screen.queryByRole("heading", { name: "Not enough room on the disk" })).toBeNull();
  await expectAccessible(root);
});

test("a gated model says how to accept its licence and give a token, and takes one where the app can", async () => {
  const onToken = vi.fn(async () => {});
  const { scripted, root } = await picker({ models: [modelOf("sd3.5-medium"), POCKET] }, { onToken });
  const medium = entry("Stable Diffusion 3.5 Medium");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  const url = "https://example.org/sd3";
  await act(async () => scripted.last("models.download").fail("LicenseNotAccepted", "Accept it first.", { url }));
  expect(medium.getByRole("link", { name: "the model's page" }).getAttribute("href")).toBe(url);
  await userEvent.type(medium.getByLabelText("Access token"), "hf_one");
  await expectAccessible(root);
  const before = scripted.asked.length;
  await userEvent.click(medium.getByRole("button", { name: "Download" }));
  expect(onToken).toHaveBeenCalledWith("hf_one");
  expect(scripted.asked.slice(before).map(({ method }) => method)).toEqual(["models.download"]);
});

test("a token that the host refuses is told, and nothing is tried with it", async () => {
  const onToken = () => Promise.reject(new Error("It has a space."));
  const { scripted } = await picker({ models: [modelOf("sd3.5-medium"), POCKET] }, { onToken });
  const medium = entry("Stable Diffusion 3.5 Medium");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  await act(async () => scripted.last("models.download").fail("LicenseNotAccepted", "Accept it first."));
  await userEvent.type(medium.getByLabelText("Access token"), "a b");
  const before = scripted.asked.length;
  await userEvent.click(medium.getByRole("button", { name: "Download" }));
  expect(medium.getByRole("alert").textContent).toBe("It has a space.");
  expect(scripted.asked).toHaveLength(before);
});

test("where the app takes no tokens, the picker says how else to give one", async () => {
  const { scripted } = await picker({ models: [modelOf("sd3.5-medium"), POCKET] });
  const medium = entry("Stable Diffusion 3.5 Medium");
  await userEvent.click(medium.getByRole("button", { name: /^Download/ }));
  await act(async () => scripted.last("models.download").fail("LicenseNotAccepted", "Accept it first."));
  medium.getByText(/HF_TOKEN/);
  expect(medium.queryByLabelText("Access token")).toBeNull();
});

test("without an engine each model says why nothing draws with it", async () => {
  const engines: EngineInfo[] = [{ name: "torch", available: false, reason: "torch is not installed.", device: null }];
  const { root } = await picker({ engines });
  screen.getByRole("heading", { name: "No engine runs on this machine" });
  screen.getByText(/torch is not installed/);
  entry("Pocket").getByText("No engine");
  expect(screen.getByRole<HTMLInputElement>("radio", { name: "Pocket" }).disabled).toBe(true);
  await expectAccessible(root);
  cleanup();
  await picker({ engines: [...engines, { name: "fake", available: true, reason: "", device: "cpu" }] });
  expect(screen.queryByRole("heading", { name: "No engine runs on this machine" })).toBeNull();
  expect(screen.getByRole<HTMLInputElement>("radio", { name: "Pocket" }).disabled).toBe(false);
});

test("a download that the host does not allow says which flag it lacks", async () => {
  const { scripted, root } = await picker({ models: [modelOf("sdxl-lightning"), POCKET] });
  await userEvent.click(entry("SDXL Lightning").getByRole("button", { name: /^Download/ }));
  const data = { reason: "hostFlag", host: { flags: ["--allow-downloads"] } };
  await act(async () => scripted.last("models.download").fail("CapabilityDenied", "Not allowed.", data));
  entry("SDXL Lightning").getByText("--allow-downloads");
  await expectAccessible(root);
});

test("an app that declares no model is told so", async () => {
  const { root } = await picker({ models: [] });
  screen.getByRole("heading", { name: "This app may use no model" });
  await expectAccessible(root);
});

test("models that cannot be listed are a problem with another try", async () => {
  const scripted = new Scripted();
  scripted.client.models.listing = () => Promise.reject(new Error("The channel is closed."));
  render(
    <ImageProvider client={scripted.client}>
      <ModelPicker onSelect={() => {}} />
    </ImageProvider>,
  );
  await screen.findByText("The channel is closed.");
  scripted.client.models.listing = async () => ({ models: [POCKET] });
  await userEvent.click(screen.getByRole("button", { name: "Try again" }));
  await screen.findByRole("radio", { name: POCKET.displayName });
});
