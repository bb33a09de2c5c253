//! An access token that the user gives while the app runs.

use serde_json::json;

use super::support::*;

const TOKENS: [&str; 2] = ["locara-diffusion:default", "locara-diffusion:tokens"];

#[test]
fn a_token_starts_the_sidecar_anew_with_it_and_what_was_drawn_before_is_drawn_after() {
    let host = host(&TOKENS, |builder| builder);
    let window = host.window("main");
    invoke(&window, "generate", long(quick(2), 7)).unwrap();
    let before = host.pid();
    invoke(&window, "give_token", json!({"params": {"token": "a-token"}})).unwrap();
    let after = host.pid();
    assert!(after != before && !alive(before) && alive(after));
    invoke(&window, "generate", long(quick(2), 7)).unwrap();
    assert_eq!(host.pid(), after);
}

#[test]
fn a_token_that_the_sidecar_refuses_is_told_and_the_one_before_goes_on() {
    let host = host(&TOKENS, |builder| builder.token("a-token"));
    let window = host.window("main");
    let error = invoke(&window, "give_token", json!({"params": {"token": "no token"}})).unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["path"]), (&json!("InvalidParams"), &json!("$.auth.token")));
    assert!(!error.to_string().contains("no token"), "{error}");
    invoke(&window, "models_list", json!({"params": {}})).unwrap();
    assert_eq!(invoke(&window, "give_token", json!({"params": {}})).unwrap_err()["data"]["path"], "$");
}

#[test]
fn a_token_waits_for_what_is_under_way() {
    let host = host(&TOKENS, |builder| builder);
    let window = host.window("main");
    let call = start(&window, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    let before = host.pid();
    let error = invoke(&window, "give_token", json!({"params": {"token": "a-token"}})).unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["retryable"]), (&json!("Busy"), &json!(true)));
    assert_eq!(host.pid(), before);
    invoke(&window, "cancel_request", json!({"requestId": "call-7"})).unwrap();
    assert_eq!(call.join().unwrap().unwrap_err()["kind"], "RequestCancelled");
    invoke(&window, "give_token", json!({"params": {"token": "a-token"}})).unwrap();
}

#[test]
fn a_call_that_begins_while_a_token_is_taken_is_drawn() {
    let host = host(&TOKENS, |builder| builder);
    let window = host.window("main");
    host.pid(); // it runs
    for channel in 7..11 {
        let given = start(&window, "give_token", json!({"params": {"token": "a-token"}}));
        let drawn = start(&window, "generate", long(quick(2), channel));
        drawn.join().unwrap().unwrap();
        if let Err(error) = given.join().unwrap() {
            assert_eq!(error["kind"], "Busy");
        }
    }
}
