import { CapabilityDenied, dataUrl, image, pictureUrl } from "tauri-plugin-locara-diffusion-api";

const form = document.querySelector("form")!;
const prompt = document.querySelector<HTMLInputElement>("#prompt")!;
const picture = document.querySelector("img")!;
const status = document.querySelector("output")!;
let drawing = new AbortController();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  drawing = new AbortController();
  try {
    const { images } = await image.generate({
      prompt: prompt.value,
      signal: drawing.signal,
      onStep: ({ phase, step, steps, preview }) => {
        status.textContent = `${phase}, step ${step} of ${steps}`;
        if (preview) picture.src = dataUrl(preview);
      },
    });
    picture.src = pictureUrl(images[0]!);
    status.textContent = "finished";
  } catch (error) {
    if (error instanceof CapabilityDenied)
      status.textContent = `locara.json lacks ${JSON.stringify(error.data.declare)}`;
    else status.textContent = String(error);
  }
});

document.querySelector("#cancel")!.addEventListener("click", () => drawing.abort());
