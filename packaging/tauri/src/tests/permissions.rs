//! Which web view may run which commands.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::support::*;
use crate::commands::{Action, COMMANDS};

/// The commands that a set of permissions allows.
fn allowed(set: &[String]) -> BTreeSet<String> {
    let acl = acl();
    let names = set.iter().map(|permission| {
        let permission = acl.permissions.get(permission).unwrap_or_else(|| panic!("no permission {permission}"));
        assert!(permission.commands.deny.is_empty());
        permission.commands.allow.clone()
    });
    names.flatten().collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_default_set_is_exactly_what_drawing_needs() {
    let acl = acl();
    let default = acl.default_permission.as_ref().unwrap();
    let expected = [
        "generate",
        "edit",
        "cancel",
        "cancel_request",
        "jobs_list",
        "jobs_attach",
        "jobs_result",
        "models_list",
        "models_get",
        "models_load",
        "models_unload",
    ];
    assert_eq!(allowed(&default.permissions), names(expected));
}

#[test]
fn every_other_command_is_in_exactly_one_named_set() {
    let acl = acl();
    let mut seen = allowed(&acl.default_permission.as_ref().unwrap().permissions);
    let sets = [
        ("pick-files", vec!["pick_image", "pick_output", "release_file"]),
        ("downloads", vec!["models_download", "models_verify"]),
        ("tokens", vec!["give_token"]),
        ("model-management", vec!["models_import", "models_prepare", "models_remove", "models_usage", "models_gc"]),
        ("diagnostics", vec!["ping", "system_info", "audit_capability_log"]),
    ];
    assert_eq!(acl.permission_sets.keys().cloned().collect::<BTreeSet<_>>(), names(sets.iter().map(|(name, _)| *name)));
    for (name, commands) in sets {
        let commands = names(commands);
        assert_eq!(allowed(&acl.permission_sets[name].permissions), commands);
        assert!(seen.is_disjoint(&commands));
        seen.extend(commands);
    }
    assert_eq!(seen, names(COMMANDS.iter().map(|command| command.name)));
}

#[test]
fn each_method_of_the_contract_has_its_command_but_for_what_is_the_hosts() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/schema/v1/openrpc.json");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let named = |method: &Value| method["name"].as_str().unwrap().to_owned();
    let is_notification = |method: &&Value| method.get("result").is_none();
    let methods: BTreeSet<String> =
        document["methods"].as_array().unwrap().iter().filter(|method| !is_notification(method)).map(named).collect();
    let reached: BTreeSet<String> = COMMANDS
        .iter()
        .filter_map(|command| match command.action {
            Action::Ask(method) | Action::Stream(method) => Some(method.to_owned()),
            Action::Attach => Some("jobs.attach".to_owned()),
            _ => None,
        })
        .collect();
    let hosts = ["initialize", "shutdown", "rpc.discover", "host.pickFile", "host.releaseFile"];
    assert_eq!(methods.difference(&reached).cloned().collect::<BTreeSet<_>>(), names(hosts));
    assert!(reached.is_subset(&methods));
}

#[test]
fn a_web_view_without_the_permission_is_refused_before_anything_runs() {
    let host = host(&[], |builder| builder);
    let window = host.window("main");
    for command in COMMANDS {
        let error = invoke(&window, command.name, long(quick(2), 7)).unwrap_err();
        assert!(error.as_str().is_some_and(|told| told.contains("not allowed")), "{}: {error}", command.name);
    }
    assert!(host.diffusion().calls.is_empty() && host.frames.lock().unwrap().is_empty());
    assert!(!host.folder.path().join("pictures").read_dir().unwrap().any(|_| true));
}

#[test]
fn the_default_set_opens_its_own_commands_and_no_other() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let default = allowed(&acl().default_permission.as_ref().unwrap().permissions);
    for command in COMMANDS {
        // no parameters that would start anything lengthy
        let answer = invoke(&window, command.name, json!({"params": {}}));
        let refused = matches!(&answer, Err(Value::String(told)) if told.contains("not allowed"));
        assert_eq!(refused, !default.contains(command.name), "{}: {answer:?}", command.name);
    }
}

#[test]
fn the_hosts_own_calls_cannot_be_reached_with_any_permission() {
    let every = ["default", "pick-files", "downloads", "tokens", "model-management", "diagnostics"];
    let every: Vec<String> = every.iter().map(|set| format!("locara-diffusion:{set}")).collect();
    let every: Vec<&str> = every.iter().map(String::as_str).collect();
    let host = host(&every, |builder| builder);
    let window = host.window("main");
    let params = json!({"params": {"path": "/etc/passwd", "access": "read"}});
    for command in ["host_pick_file", "host.pickFile", "host_release_file", "initialize", "shutdown", "exit"] {
        let error = invoke(&window, command, params.clone()).unwrap_err();
        assert!(error.as_str().is_some_and(|told| told.contains("not allowed")), "{command}: {error}");
    }
    // a capability written by the app would not help either
    for command in ["host_pick_file", "host.pickFile", "initialize", "shutdown", ""] {
        assert!(crate::commands::find(command).is_none());
    }
}

#[test]
fn a_page_from_elsewhere_is_refused() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let error = invoke_from("https://example.com", &host.window("main"), "models_list", json!({})).unwrap_err();
    assert!(error.as_str().unwrap().contains("not allowed"), "{error}");
}

#[test]
fn what_the_host_has_not_allowed_is_denied_whatever_the_web_view_may() {
    let host = host(&["locara-diffusion:downloads", "locara-diffusion:model-management"], |builder| builder);
    let window = host.window("main");
    let error = invoke(&window, "models_download", long(json!({"model": "pocket"}), 7)).unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["reason"]), (&json!("CapabilityDenied"), &json!("hostFlag")));
    let error = invoke(&window, "models_gc", json!({"params": {}})).unwrap_err();
    assert_eq!(error["data"]["reason"], "hostFlag");
    let allowing =
        host_of(manifest(), &["locara-diffusion:model-management"], |builder| builder.allow_model_management());
    invoke(&allowing.window("main"), "models_gc", json!({"params": {"dryRun": true}})).unwrap();
}
