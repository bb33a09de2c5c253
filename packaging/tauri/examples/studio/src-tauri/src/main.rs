#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use std::sync::atomic::{AtomicU32, Ordering};

use tauri::{AppHandle, WebviewWindowBuilder};
use tauri_plugin_locara_diffusion::Builder;

/// Opens a link of the page in the user's browser.
#[tauri::command]
fn open_link(url: &str) -> Result<(), String> {
    if !url.starts_with("https://") {
        return Err("Only https links can be opened.".to_owned());
    }
    open::that_detached(url).map_err(|error| error.to_string())
}

/// Opens another window with the same page. All windows share one sidecar.
///
/// It is async because on Windows a window created by a synchronous command never opens.
#[tauri::command]
async fn new_window(app: AppHandle) -> Result<(), String> {
    static LAST: AtomicU32 = AtomicU32::new(1);
    let mut window = app.config().app.windows.first().cloned().unwrap_or_default();
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    window.label = format!("window-{number}"); // the capability refers to these labels
    window.title = format!("{} {number}", window.title);
    let opened = WebviewWindowBuilder::from_config(&app, &window).and_then(|builder| builder.build());
    opened.map(drop).map_err(|error| error.to_string())
}

fn main() {
    tauri::Builder::default()
        .plugin(Builder::new().allow_downloads().build())
        .invoke_handler(tauri::generate_handler![open_link, new_window])
        .run(tauri::generate_context!())
        .expect("the app cannot start");
}
