#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use tauri_plugin_locara_diffusion::Builder;

/// Opens a link of the page in the user's browser.
#[tauri::command]
fn open_link(url: &str) -> Result<(), String> {
    if !url.starts_with("https://") {
        return Err("Only https links can be opened.".to_owned());
    }
    open::that_detached(url).map_err(|error| error.to_string())
}

fn main() {
    tauri::Builder::default()
        .plugin(Builder::new().allow_downloads().build())
        .invoke_handler(tauri::generate_handler![open_link])
        .run(tauri::generate_context!())
        .expect("the app cannot start");
}
