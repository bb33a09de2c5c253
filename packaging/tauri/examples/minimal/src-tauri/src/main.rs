#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

fn main() {
    tauri::Builder::default()
        .plugin(tauri_plugin_locara_diffusion::init())
        .run(tauri::generate_context!())
        .expect("the app cannot start");
}
