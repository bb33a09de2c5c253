//! The folders of the roots that a manifest declares, and those from which a page may show pictures.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tauri::{AppHandle, Manager, Runtime};

/// A root that the manifest declares, and its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// Whether the manifest lets the app read there.
    pub(crate) readable: bool,
}

/// Returns each root that a manifest declares, and whether the app may read there.
pub(crate) fn declared(manifest: &Map<String, Value>) -> Vec<(String, bool)> {
    let readable = |access: &Value| matches!(access.as_str(), Some("read" | "read-write"));
    let Some(Value::Object(declared)) = manifest.get("capabilities").and_then(|all| all.get("fs")) else {
        return Vec::new();
    };
    let mut roots = Vec::new();
    for (name, access) in declared {
        match (name.as_str(), access) {
            ("user-folder" | "app-data", Value::String(_)) => roots.push((name.clone(), readable(access))),
            ("user-paths", Value::Object(paths)) => {
                roots.extend(paths.iter().map(|(path, access)| (format!("user-paths.{path}"), readable(access))));
            }
            _ => {}
        }
    }
    roots
}

/// Returns the folders of the declared roots: those that the app has set, otherwise the platform's.
pub(crate) fn resolved<R: Runtime>(
    app: &AppHandle<R>,
    manifest: &Map<String, Value>,
    named: &[(String, PathBuf)],
) -> tauri::Result<Vec<Root>> {
    let mut roots = Vec::new();
    for (name, readable) in declared(manifest) {
        let folder = match named.iter().rev().find(|(root, _)| *root == name) {
            Some((_, folder)) => folder.clone(),
            None => match platforms(app, &name)? {
                Some(folder) => folder,
                None => continue, // the sidecar reports that the host grants none
            },
        };
        roots.push(Root { name, folder, readable });
    }
    Ok(roots)
}

/// Creates the folders that do not exist yet.
pub(crate) fn make(roots: &[Root]) -> Result<(), String> {
    for Root { name, folder, .. } in roots {
        let place = folder.display();
        if !folder.is_absolute() {
            return Err(format!("{place}, the folder for {name}, is not an absolute path"));
        }
        if folder.to_str().is_none() {
            return Err(format!("{place}, the folder for {name}, has a name that is not Unicode"));
        }
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{place}, the folder for {name}, cannot be created: {error}"))?;
    }
    Ok(())
}

fn platforms<R: Runtime>(app: &AppHandle<R>, root: &str) -> tauri::Result<Option<PathBuf>> {
    let paths = app.path();
    Ok(match root {
        "user-folder" => {
            let pictures = paths.picture_dir().or_else(|_| paths.home_dir().map(|home| home.join("Pictures")))?;
            Some(pictures.join(app_name(app)))
        }
        // a separate folder: the app's other data is not for the page
        "app-data" => Some(paths.app_data_dir()?.join("pictures")),
        _ => None,
    })
}

/// Converts the app's name to one component of a path.
fn app_name<R: Runtime>(app: &AppHandle<R>) -> String {
    let name = app.config().product_name.clone().unwrap_or_else(|| app.package_info().name.clone());
    let plain: String =
        name.chars().map(|c| if c.is_control() || r#"/\:*?"<>|"#.contains(c) { '-' } else { c }).collect();
    match plain.trim_matches(['.', ' ']) {
        "" => "Pictures".to_owned(),
        name => name.to_owned(),
    }
}

/// Lets pages show, through the asset protocol, the files in the roots that the app may read.
pub(crate) fn show<R: Runtime>(app: &AppHandle<R>, roots: &[Root]) -> tauri::Result<()> {
    for root in roots.iter().filter(|root| root.readable) {
        app.asset_protocol_scope().allow_directory(&root.folder, true)?;
    }
    Ok(())
}

/// Lets pages show one picture, for a root in which the app may only write.
pub(crate) fn show_file<R: Runtime>(app: &AppHandle<R>, file: &Path) {
    let scope = app.asset_protocol_scope();
    if !scope.is_allowed(file)
        && let Err(error) = scope.allow_file(file)
    {
        tracing::warn!("a picture cannot be shown through the asset protocol: {error}");
    }
}
