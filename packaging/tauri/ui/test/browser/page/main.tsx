// The page that the browser tests open: the studio over the bridge, as an app would have it over Tauri.

import { Client } from "@locara/image/core";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Studio } from "../../../src/index.js";
import "../../../src/styles/index.css";
import { sceneOf } from "./scenes.js";
import { BridgeTransport } from "./transport.js";

const wishes = new URLSearchParams(location.search);
const scene = wishes.get("scene");
const bridge = new BridgeTransport(`ws://${location.host}/`);
const root = document.getElementById("root");
// the room of the scroll bar belongs to the page, not to the studio
document.documentElement.style.background = wishes.get("theme") === "dark" ? "#15171b" : "#f4f5f7";
const served = wishes.has("served"); // pictures by their address, as Tauri's asset protocol has them

if (root) {
  createRoot(root).render(
    <StrictMode>
      <Studio
        client={scene === null ? new Client(bridge) : sceneOf(scene)}
        theme={(wishes.get("theme") ?? undefined) as "light" | "dark" | undefined}
        source={served ? ({ relativePath }) => relativePath && `/pictures/${relativePath}` : undefined}
        onToken={wishes.has("token") ? (token) => bridge.give(token) : undefined}
      />
    </StrictMode>,
  );
}
