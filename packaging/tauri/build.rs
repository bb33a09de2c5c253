//! Writes a permission for each command of the table, and makes all permissions known to apps.

#[allow(dead_code)]
#[path = "src/commands.rs"]
mod commands;

fn main() {
    println!("cargo:rerun-if-changed=src/commands.rs");
    let names: Vec<&str> = commands::COMMANDS.iter().map(|command| command.name).collect();
    tauri_plugin::Builder::new(&names).build();
}
