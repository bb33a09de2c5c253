// The app's whole page: the UI package's studio on top of the plugin, and a button for another window.

import { tauriClient } from "@locara/image/tauri";
import { type PictureSource, Studio } from "@locara/image-ui";
import { invoke } from "@tauri-apps/api/core";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { giveToken, pictureUrl } from "tauri-plugin-locara-diffusion-api";
import "@locara/image-ui/styles.css";

const client = tauriClient();
const source: PictureSource = (image) => (image.data || image.path ? pictureUrl(image) : undefined);
const openLink = (url: string) => void invoke("open_link", { url });
const newWindow = () => void invoke("new_window");

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <header className="locara">
        <button type="button" className="locara-button locara-button-quiet" onClick={newWindow}>
          New window
        </button>
      </header>
      <Studio client={client} source={source} openLink={openLink} onToken={giveToken} output={{ mode: "save" }} />
    </StrictMode>,
  );
}
