//! Validation of custom objects by their schema.

use durward_testkit::serde_json::json;

use super::custom::{cause, causes, with_spec};
use super::*;

type Cause = (String, String, String);

fn bounds() -> Value {
    json!({
        "type": "object",
        "required": ["must"],
        "properties": {
            "must": {"type": "string"},
            "count": {"type": "integer", "minimum": 1, "maximum": 10},
            "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2},
            "short": {"type": "string", "maxLength": 3},
            "color": {"type": "string", "enum": ["red", "green"]},
            "items": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        },
    })
}

fn out_of_bounds() -> Vec<(Value, Cause)> {
    let invalid = |field: &str, value: &str, rule: &str| {
        let message = format!("Invalid value: {value}: spec.{field} in body {rule}");
        cause("FieldValueInvalid", &format!("spec.{field}"), &message)
    };
    let wrong_type =
        "Invalid value: \"integer\": spec.must in body must be of type string: \"integer\"";
    let unsupported = "Unsupported value: \"blue\": supported values: \"red\", \"green\"";
    vec![
        (json!({}), cause("FieldValueRequired", "spec.must", "Required value")),
        (json!({"must": 1}), cause("FieldValueTypeInvalid", "spec.must", wrong_type)),
        (
            json!({"must": "", "count": 0}),
            invalid("count", "0", "should be greater than or equal to 1"),
        ),
        (
            json!({"must": "", "count": 11}),
            invalid("count", "11", "should be less than or equal to 10"),
        ),
        (json!({"must": "", "name": "A1"}), invalid("name", "\"A1\"", "should match '^[a-z]+$'")),
        (
            json!({"must": "", "name": "a"}),
            invalid("name", "\"a\"", "should be at least 2 chars long"),
        ),
        (
            json!({"must": "", "short": "abcd"}),
            cause("FieldValueTooLong", "spec.short", "Too long: may not be more than 3 bytes"),
        ),
        (
            json!({"must": "", "color": "blue"}),
            cause("FieldValueNotSupported", "spec.color", unsupported),
        ),
        (
            json!({"must": "", "items": ["a", "b"]}),
            cause("FieldValueTooMany", "spec.items", "Too many: 2: must have at most 1 item"),
        ),
        (
            json!({"must": "", "set": ["a", "a"]}),
            cause("FieldValueDuplicate", "spec.set[1]", "Duplicate value: \"a\""),
        ),
    ]
}

#[tokio::test]
async fn types_and_bounds_are_checked_in_the_servers_words() {
    let env = with_spec(bounds()).await;

    for (spec, expected) in out_of_bounds() {
        assert_eq!(causes(&env, &spec).await, [expected], "{spec}");
    }
}

fn forms() -> Value {
    json!({
        "type": "object",
        "properties": {
            "v4": {"type": "string", "format": "ipv4"},
            "v6": {"type": "string", "format": "ipv6"},
            "time": {"type": "string", "format": "date-time"},
            "cidr": {"type": "string", "format": "cidr"},
            "whole": {"type": "integer", "format": "int32"},
            "either": {"x-kubernetes-int-or-string": true},
            "number": {"type": "integer", "enum": [1, 2]},
            "few": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}},
            "one": {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            "not": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "not": {"required": ["a"]},
            },
        },
    })
}

fn bad_forms() -> Vec<(Value, Vec<Cause>)> {
    let bad_format = |field: &str, format: &str, value: &str| {
        let message = format!(
            "Invalid value: \"{value}\": spec.{field} in body must be of type {format}: \"{value}\""
        );
        cause("FieldValueTypeInvalid", &format!("spec.{field}"), &message)
    };
    vec![
        (json!({"v4": "::1"}), vec![bad_format("v4", "ipv4", "::1")]),
        (json!({"v6": "1.2.3.4"}), vec![bad_format("v6", "ipv6", "1.2.3.4")]),
        (json!({"time": "x"}), vec![bad_format("time", "date-time", "x")]),
        (json!({"cidr": "1.2.3.4"}), vec![bad_format("cidr", "cidr", "1.2.3.4")]),
        (
            json!({"whole": 9_999_999_999_u64}),
            vec![cause(
                "FieldValueInvalid",
                "<nil>",
                "Invalid value: \"\": Checked value must be of type integer with format int32 in spec.whole",
            )],
        ),
        (
            json!({"either": true}),
            vec![cause(
                "FieldValueTypeInvalid",
                "spec.either",
                "Invalid value: \"boolean\": spec.either in body must be of type integer,string: \"boolean\"",
            )],
        ),
        (
            json!({"number": 3}),
            vec![cause(
                "FieldValueNotSupported",
                "spec.number",
                "Unsupported value: 3: supported values: \"1\", \"2\"",
            )],
        ),
    ]
}

fn bad_alternatives() -> Vec<(Value, Vec<Cause>)> {
    let one = "Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf).";
    vec![
        (
            json!({"few": {"a": "", "b": ""}}),
            vec![cause("FieldValueTooMany", "spec.few", "Too many: 2: must have at most 1 item")],
        ),
        (
            json!({"one": {}}),
            vec![
                cause("FieldValueInvalid", "<nil>", &format!("{one} Found none valid")),
                cause("FieldValueRequired", "spec.one.a", "Required value"),
            ],
        ),
        (
            json!({"one": {"a": "", "b": ""}}),
            vec![cause("FieldValueInvalid", "<nil>", &format!("{one} Found 2 valid alternatives"))],
        ),
        (
            json!({"not": {"a": ""}}),
            vec![cause(
                "FieldValueInvalid",
                "<nil>",
                "Invalid value: \"\": \"spec.not\" must not validate the schema (not)",
            )],
        ),
    ]
}

#[tokio::test]
async fn formats_and_alternatives_are_checked_in_the_servers_words() {
    let env = with_spec(forms()).await;

    for (spec, expected) in bad_forms().into_iter().chain(bad_alternatives()) {
        assert_eq!(causes(&env, &spec).await, expected, "{spec}");
    }
}

#[tokio::test]
async fn rules_are_not_asked_about_what_is_wrong_anyway() {
    let env = with_spec(json!({
        "type": "object",
        "properties": {
            "short": {"type": "string", "maxLength": 1},
            "positive": {
                "type": "integer",
                "x-kubernetes-validations": [{
                    "rule": "self > 0",
                    "message": "must be positive",
                    "reason": "FieldValueForbidden",
                }],
            },
        },
    }))
    .await;

    let both = causes(&env, &json!({"short": "ab", "positive": 0})).await;
    let one = causes(&env, &json!({"short": "a", "positive": 0})).await;

    let unasked = "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    let expected = [
        cause("FieldValueTooLong", "spec.short", "Too long: may not be more than 1 byte"),
        cause("FieldValueInvalid", "<nil>", unasked),
    ];
    assert_eq!(both, expected);
    let forbidden = cause("FieldValueForbidden", "spec.positive", "Forbidden: must be positive");
    assert_eq!(one, [forbidden]);
}

#[tokio::test]
async fn a_null_that_is_not_allowed_is_dropped() {
    let env = with_spec(json!({
        "type": "object",
        "properties": {
            "plain": {"type": "string"},
            "filled": {"type": "string", "default": "x"},
            "nullable": {"type": "string", "nullable": true},
        },
    }))
    .await;

    let spec = json!({"plain": null, "filled": null, "nullable": null});
    let made = created(&widgets(&env), &widget(&env, "a", &spec)).await;

    assert_eq!(made.data["spec"], json!({"filled": "x", "nullable": null}));
}
