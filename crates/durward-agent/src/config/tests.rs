use serde_json::{Value, json};

use super::*;

fn file(more: &Value) -> AgentFile {
    let mut file = json!({"link": "onprem"});
    for (name, value) in more.as_object().unwrap() {
        file[name] = value.clone();
    }
    serde_json::from_value(file).unwrap()
}

// S3.8 S3.9
#[test]
fn ingresses_are_registered_only_if_that_is_switched_on_and_the_environment_comes_first() {
    let of_pipeops = json!({"agent": {"enable_ingress_sync": true}});
    let cases = [
        (json!({}), None, false),
        (of_pipeops.clone(), None, true),
        (json!({"enableIngressSync": true}), None, true),
        (of_pipeops, Some("false"), false),
        (json!({"enableIngressSync": false}), Some("True"), true),
        (json!({"gateway": {"enabled": false}}), Some("true"), false),
    ];
    for (text, variable, expected) in cases {
        let ingress_sync = variable.map(str::to_owned);
        let environment = Environment { ingress_sync, ..Environment::default() };
        let found = file(&text).ingress_sync(&environment).unwrap();
        assert_eq!(found, expected, "{text} {variable:?}");
    }
    let environment =
        Environment { ingress_sync: Some("maybe".to_owned()), ..Environment::default() };
    let why = file(&json!({})).ingress_sync(&environment).unwrap_err().to_string();
    assert!(why.contains("ENABLE_INGRESS_SYNC \"maybe\""), "{why}");
}

// S3.38
#[test]
fn the_gateway_is_that_of_the_original_variable_if_the_file_has_none_and_there_is_no_default() {
    let api_url = Some("https://api.example/".to_owned());
    let environment = Environment { api_url, ..Environment::default() };
    let urls = |file: &AgentFile, environment: &Environment| {
        let urls = file.gateway_urls(environment).map_err(|why| why.to_string());
        urls.map(|urls| urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let own = file(&json!({"gateways": ["tls://own.example:7443"]}));

    let from_variable = urls(&file(&json!({})), &environment).unwrap();
    let from_file = urls(&own, &environment).unwrap();
    let from_neither = urls(&file(&json!({})), &Environment::default()).unwrap_err();

    assert!(from_variable[0].starts_with("wss://api.example"), "{from_variable:?}");
    assert!(from_file[0].starts_with("tls://own.example:7443"), "{from_file:?}");
    assert!(from_neither.contains("set PIPEOPS_API_URL"), "{from_neither}");
}
