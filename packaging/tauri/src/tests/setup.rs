//! The app's settings, and what happens if something is missing.

use std::path::PathBuf;

use serde_json::{Value, json};
use tauri::Manager;

use super::support::*;
use crate::DiffusionExt;
use crate::builder::in_app_sandbox;
use crate::folders::declared;

/// Returns why an app with that text as its manifest cannot be built.
fn unbuilt(manifest: Option<&str>, folder: Option<&str>) -> String {
    let place = TempDir::new();
    if let Some(text) = manifest {
        std::fs::write(place.path().join("locara.json"), text).unwrap();
    }
    let below = folder.map(|folder| place.path().join(folder));
    let built = build(&place, &[], |builder| match below {
        Some(folder) => builder.folder("user-folder", folder),
        None => builder,
    });
    match built {
        Ok(_) => panic!("it was built"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_app_without_its_manifest_does_not_start_and_says_why() {
    let told = unbuilt(None, None);
    assert!(told.contains("locara.json cannot be read") && told.contains("bundle.resources"), "{told}");
    let told = unbuilt(Some("[]"), None);
    assert!(told.contains("locara.json is not a JSON object"), "{told}");
}

#[test]
fn a_manifest_that_cannot_be_understood_keeps_the_app_from_starting_and_its_place_is_named() {
    for text in ["", "{", "null", "{} {}", "\u{feff}{}", r#"{"schema": "#] {
        let told = unbuilt(Some(text), None);
        assert!(told.contains("locara.json is not a JSON object"), "{text}: {told}");
    }
    let place = TempDir::new();
    std::fs::create_dir(place.path().join("locara.json")).unwrap();
    let told = build(&place, &[], |builder| builder).err().unwrap().to_string();
    assert!(told.contains("locara.json cannot be read"), "{told}");
}

#[test]
fn a_manifest_that_the_contract_refuses_is_told_to_each_call_with_its_member_and_nothing_is_drawn() {
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut wrong = manifest();
        change(&mut wrong);
        wrong
    };
    let refused: [(Value, &str); 4] = [
        (json!({}), "$.manifest"),
        (wrong(&|all| all["schema"] = json!("locara/v2")), "$.manifest.schema"),
        (wrong(&|all| all["capabilities"]["models"] = json!("pocket")), "$.manifest.capabilities.models"),
        (
            wrong(&|all| all["capabilities"]["fs"]["user-folder"] = json!("all")),
            "$.manifest.capabilities.fs.user-folder",
        ),
    ];
    for (manifest, path) in refused {
        let host = host_of(manifest, &["locara-diffusion:default"], |builder| builder);
        let window = host.window("main");
        for (command, body) in [("models_list", json!({"params": {}})), ("generate", long(quick(2), 7))] {
            let error = invoke(&window, command, body).unwrap_err();
            let at = error["data"]["path"].as_str().unwrap_or_default();
            assert!(error["kind"] == "InvalidParams" && at.starts_with(path), "{path}: {error}");
        }
        assert!(host.frames.lock().unwrap().is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_sidecar_is_found_among_the_resources_and_else_below_share() {
    use crate::diffusion::shipped;

    let place = TempDir::new();
    let program = std::path::Path::new("locara-sidecar/locara-sidecar");
    let resources = place.path().join("usr/lib/studio");
    let among = resources.join(program);
    let found = || shipped(among.clone(), Some(&resources), program);
    assert_eq!(found(), among, "if it does not exist, the path where it belongs is reported");
    let shared = place.path().join("usr/share/studio").join(program);
    for file in [&shared, &among] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert_eq!(found(), if file == &among { shared.clone() } else { among.clone() });
        std::fs::write(file, "").unwrap();
        assert_eq!(&found(), file);
    }
}

#[test]
fn files_are_handed_over_by_itself_in_the_app_sandbox_alone() {
    let ways = [("macos", Some("org.example.app")), ("macos", Some("")), ("macos", None), ("linux", Some("a"))];
    let hands = ways.map(|(system, container)| in_app_sandbox(system, container.map(AsRef::as_ref)));
    assert_eq!(hands, [true, false, false, false]);
}

#[test]
fn folders_are_made_for_what_the_manifest_declares_and_for_nothing_else() {
    let host = host(&[], |builder| {
        builder.folder("app-data", "/nowhere/that/could/be/made").folder("user-paths.exports", "/nowhere/either")
    });
    let pictures = host.folder.path().join("pictures");
    assert!(pictures.is_dir());
    assert_eq!(host.app.diffusion().folder("user-folder"), Some(pictures.as_path()));
    assert_eq!(host.app.diffusion().folder("app-data"), None);
    assert_eq!(host.app.diffusion().folder("user-paths.exports"), None);
}

#[test]
fn a_manifest_that_declares_no_model_denies_every_picture() {
    let mut bare = manifest();
    bare["capabilities"]["models"] = json!([]);
    let host = host_of(bare, &["locara-diffusion:default"], |builder| builder);
    let error = invoke(&host.window("main"), "generate", long(json!({"prompt": PROMPT}), 7)).unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["reason"]), (&json!("CapabilityDenied"), &json!("notDeclared")));
    assert!(error["data"]["declare"]["capabilities"]["models"].is_array(), "{error}");
}

#[test]
fn a_declared_folder_that_is_nobodys_is_said_to_lack_the_hosts_grant() {
    let mut declares = manifest();
    declares["capabilities"]["fs"]["user-paths"] = json!({"exports": "write"});
    let host = host_of(declares, &["locara-diffusion:default"], |builder| builder);
    let mut params = quick(2);
    params["options"]["output"] = json!({"root": "user-paths.exports"});
    let error = invoke(&host.window("main"), "generate", long(params, 7)).unwrap_err();
    assert_eq!(error["data"]["reason"], "noHostGrant", "{error}");
}

#[test]
fn only_readable_roots_are_shown_to_pages() {
    let roots = |fs: Value| declared(json!({"capabilities": {"fs": fs}}).as_object().unwrap());
    let name = |name: &str, readable| (name.to_owned(), readable);
    assert_eq!(roots(json!({"user-folder": "read-write"})), [name("user-folder", true)]);
    assert_eq!(roots(json!({"app-data": "write"})), [name("app-data", false)]);
    let paths = json!({"user-paths": {"a": "read", "b": "write", "c": 3}, "user-selected": "read", "other": "read"});
    assert_eq!(roots(paths), [name("user-paths.a", true), name("user-paths.b", false), name("user-paths.c", false)]);
    assert_eq!(roots(json!([])), []);
    assert_eq!(declared(&serde_json::Map::new()), []);
}

#[test]
fn the_platforms_folders_bear_the_apps_name() {
    let app = tauri::test::mock_app();
    let manifest = json!({"capabilities": {"fs": {"user-folder": "write", "user-paths": {"a": "read", "b": "read"}}}});
    let named = [("user-paths.a".to_owned(), "/a".into()), ("app-data".to_owned(), "/b".into())];
    let home = app.path().picture_dir().or_else(|_| app.path().home_dir().map(|home| home.join("Pictures"))).unwrap();
    let roots = crate::folders::resolved(app.handle(), manifest.as_object().unwrap(), &named).unwrap();
    let folders: Vec<_> = roots.into_iter().map(|root| (root.name, root.folder)).collect();
    assert_eq!(folders, [("user-folder".to_owned(), home.join("test")), ("user-paths.a".to_owned(), "/a".into())]);
}

#[test]
fn a_folder_that_cannot_be_made_keeps_the_app_from_starting() {
    let told = unbuilt(Some(&manifest().to_string()), Some("locara.json/pictures")); // below a file
    assert!(told.contains("the folder for user-folder, cannot be created"), "{told}");
}

#[test]
fn a_folder_that_the_sidecar_would_take_for_another_keeps_the_app_from_starting() {
    let refused = |folder: PathBuf| {
        let place = TempDir::new();
        std::fs::write(place.path().join("locara.json"), manifest().to_string()).unwrap();
        build(&place, &[], |builder| builder.folder("user-folder", folder)).err().unwrap().to_string()
    };
    let told = refused(PathBuf::from("pictures"));
    assert!(told.contains("the folder for user-folder, is not an absolute path"), "{told}");
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let told = refused(std::env::temp_dir().join(std::ffi::OsString::from_vec(b"pic\xffures".to_vec())));
        assert!(told.contains("has a name that is not Unicode"), "{told}");
    }
}
