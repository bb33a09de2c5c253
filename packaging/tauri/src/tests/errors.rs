//! The errors with which commands reject.

use serde_json::{Value, json};

use super::support::*;

fn failed(host: &Host, command: &str, body: Value) -> Value {
    use tauri::Manager;
    let window = host.app.get_webview_window("main").unwrap_or_else(|| host.window("main"));
    let error = invoke(&window, command, body).unwrap_err();
    // as the web view's client reads it
    assert!(error["code"].is_i64() && error["message"].is_string(), "{error}");
    assert_eq!(error["data"]["kind"], error["kind"]);
    assert!(error["data"]["retryable"].is_boolean(), "{error}");
    error
}

#[test]
fn the_sidecars_errors_come_as_they_crossed_the_wire() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let error = failed(&host, "generate", long(json!({"prompt": " "}), 7));
    assert_eq!((&error["kind"], &error["code"]), (&json!("InvalidParams"), &json!(-32602)));
    assert_eq!(error["data"]["path"], "$.prompt");
    let error = failed(&host, "generate", long(json!({"prompt": "a", "options": {"stepz": 3}}), 7));
    assert_eq!(error["data"]["path"], "$.options.stepz");
    let error = failed(&host, "generate", long(json!({"prompt": "fake:crash=denoising a"}), 7));
    assert_eq!((&error["kind"], &error["code"]), (&json!("EngineCrashed"), &json!(-32012)));
    assert_eq!(error["data"]["retryable"], true);
}

#[test]
fn a_model_that_the_manifest_lacks_is_denied_with_what_to_declare() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let error = failed(&host, "generate", long(json!({"prompt": "a", "options": {"model": "sd3.5-medium"}}), 7));
    assert_eq!((&error["kind"], &error["code"]), (&json!("CapabilityDenied"), &json!(-32001)));
    assert_eq!(error["data"]["reason"], "notDeclared");
    assert_eq!(error["data"]["declare"], json!({"capabilities": {"models": ["sd3.5-medium"]}}));
    let error = failed(&host, "models_get", json!({"params": {"model": "flux.1-schnell"}}));
    assert_eq!(error["kind"], "CapabilityDenied");
}

#[test]
fn a_web_view_cannot_say_what_is_the_hosts_to_say() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    // a call can carry neither a manifest nor folders nor a channel of the sidecar's
    for member in ["manifest", "grants"] {
        let mut params = quick(2);
        params[member] = json!({});
        let error = failed(&host, "generate", long(params, 7));
        assert_eq!(error["data"]["path"], format!("$.{member}"));
    }
    let mut params = quick(2);
    params["channel"] = json!(4);
    let answer = invoke(&host.window("second"), "generate", long(params, 9)).unwrap();
    assert_eq!(answer["messages"], host.messages(9).len());
    let error = failed(&host, "models_list", json!({"params": {"channel": 3}}));
    assert_eq!(error["kind"], "InvalidParams");
}

#[test]
fn a_long_call_needs_an_id_of_its_own_and_a_channel() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let channel = "__CHANNEL__:7";
    let error = failed(&host, "generate", json!({"params": quick(2), "requestId": "a"}));
    assert_eq!((&error["kind"], &error["data"]["path"]), (&json!("InvalidParams"), &json!("$.channel")));
    for id in [json!(null), json!(""), json!("a".repeat(129))] {
        let error = failed(&host, "generate", json!({"params": quick(2), "requestId": id, "channel": channel}));
        assert_eq!(error["data"]["path"], "$.requestId");
    }
    for body in [json!({"params": []}), json!({"params": quick(2), "requestId": 3, "channel": channel})] {
        assert_eq!(failed(&host, "generate", body)["data"]["path"], "$");
    }
    assert_eq!(failed(&host, "jobs_attach", long(json!({}), 7))["data"]["path"], "$");
    let error = failed(&host, "models_list", json!({"parms": {}}));
    assert!(error["data"]["path"] == "$" && error["message"].as_str().unwrap().contains("parms"), "{error}");
    let window = host.window("second");
    let call = start(&window, "generate", long(slow(), 7));
    until("it is known", || host.diffusion().calls.len() == 1);
    let error = invoke(&window, "generate", long(slow(), 7)).unwrap_err();
    assert_eq!(error["data"]["path"], "$.requestId");
    invoke(&window, "cancel_request", json!({"requestId": "call-7"})).unwrap();
    call.join().unwrap().unwrap_err();
}

#[test]
fn a_sidecar_that_cannot_start_is_an_error_of_the_call_and_the_app_goes_on() {
    let host = host(&["locara-diffusion:default"], |builder| builder.arg("--no-such-flag"));
    for _ in 0..2 {
        let error = failed(&host, "models_list", json!({"params": {}}));
        assert_eq!((&error["kind"], &error["code"]), (&json!("SidecarGone"), &json!(-32000)));
        assert_eq!((&error["data"]["status"], &error["data"]["signal"]), (&json!(2), &Value::Null));
    }
}

#[test]
fn what_is_too_large_for_the_sidecar_is_refused_and_the_next_call_goes_on() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let error = failed(&host, "generate", long(json!({"prompt": "a".repeat(100_000)}), 7));
    assert_eq!((&error["kind"], &error["data"]["path"]), (&json!("InvalidParams"), &json!("$.prompt")));
    let error = failed(&host, "generate", long(json!({"prompt": "a".repeat(20_000_000)}), 7));
    assert_eq!((&error["kind"], &error["data"]["path"]), (&json!("InvalidParams"), &json!("$")));
    assert!(error["message"].as_str().unwrap().contains("bytes"), "{error}");
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(failed(&host, "models_list", json!({"params": {"a": deep}}))["kind"], "InvalidParams");
    invoke(&host.window("other"), "generate", long(quick(2), 7)).unwrap();
}

#[test]
fn what_rust_alone_sees_has_a_kind_too() {
    let spawn = locara_diffusion::Error::Spawn {
        program: "locara-sidecar".to_owned(),
        source: std::sync::Arc::new(std::io::Error::other("no such file")),
    };
    let many = locara_diffusion::Error::TooManyCalls { limit: 2 };
    let kinds = [("SidecarGone", -32000, false), ("QueueFull", -32013, true)];
    for (error, (kind, code, retryable)) in [spawn, many].into_iter().zip(kinds) {
        let told = serde_json::to_value(crate::Error::from(error)).unwrap();
        let expected = json!([kind, code, kind, retryable]);
        assert_eq!(json!([told["kind"], told["code"], told["data"]["kind"], told["data"]["retryable"]]), expected);
    }
}
