//! JSON in place of the MessagePack on the wire, both ways.
//!
//! Objects, arrays, strings, booleans and null are the same in both, and so are numbers: integers
//! from -2^63 to 2^64-1 and 64-bit floats (an integer beyond becomes a float). What JSON lacks is
//! an object with one key:
//!
//! | MessagePack | JSON |
//! |---|---|
//! | binary data, and strings that are not UTF-8 | `{"$bytes": "<base64>"}` |
//! | a float that is not finite | `{"$float": "nan"}`, `"inf"`, `"-inf"` |
//! | an extension value | `{"$ext": [<type>, "<base64>"]}` |
//!
//! Both ways, so the JSON of an answer can be sent again. Keys of nested maps that are not strings
//! come out as their text: the index of a variant of a typed enum, for one, as `"0"`.

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use btlightning::Payload;
use rmpv::Value as Pack;
use serde_json::{Map, Value as Json, json};

/// Turns a JSON text into the `data` of a request; `what` names it in errors.
pub(crate) fn parse_payload(text: &[u8], what: &str) -> Result<Payload> {
    let value: Json =
        serde_json::from_slice(text).with_context(|| format!("{what} is not JSON"))?;
    to_payload(&value, what)
}

/// Turns a JSON object into the `data` of a request or an answer; `what` names it in errors.
pub(crate) fn to_payload(value: &Json, what: &str) -> Result<Payload> {
    let Json::Object(object) = value else {
        bail!("{what} is {}, expected a JSON object", kind(value));
    };
    let map = object
        .iter()
        .map(|(key, value)| Ok((key.clone(), to_pack(value, key)?)))
        .collect::<Result<_>>()
        .with_context(|| what.to_owned())?;
    Payload::from_map(&map).with_context(|| what.to_owned())
}

/// Turns the `data` of a request or an answer into a JSON object.
pub(crate) fn from_payload(data: &Payload) -> Result<Json> {
    let map = data.to_map()?;
    Ok(Json::Object(
        map.into_iter()
            .map(|(key, value)| (key, from_pack(value)))
            .collect(),
    ))
}

/// Returns the JSON of binary data.
pub(crate) fn bytes(content: &[u8]) -> Json {
    json!({ BYTES: base64(content) })
}

/// Returns binary data as text.
pub(crate) fn base64(content: &[u8]) -> String {
    BASE64_STANDARD.encode(content)
}

fn to_pack(value: &Json, field: &str) -> Result<Pack> {
    Ok(match value {
        Json::Null => Pack::Nil,
        Json::Bool(b) => Pack::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => Pack::from(n),
            (None, Some(n), _) => Pack::from(n),
            (None, None, Some(n)) => Pack::from(n),
            (None, None, None) => bail!("field {field}: the number {n} is out of range"),
        },
        Json::String(s) => Pack::from(s.as_str()),
        Json::Array(items) => Pack::Array(
            items
                .iter()
                .map(|item| to_pack(item, field))
                .collect::<Result<_>>()?,
        ),
        Json::Object(object) => match tagged(object, field)? {
            Some(value) => value,
            None => Pack::Map(
                object
                    .iter()
                    .map(|(key, value)| Ok((Pack::from(key.as_str()), to_pack(value, key)?)))
                    .collect::<Result<_>>()?,
            ),
        },
    })
}

/// Reads an object that stands for a value JSON lacks.
fn tagged(object: &Map<String, Json>, field: &str) -> Result<Option<Pack>> {
    let mut entries = object.iter();
    let (Some((tag, value)), None) = (entries.next(), entries.next()) else {
        return Ok(None);
    };
    let decode = |text: &str| {
        BASE64_STANDARD
            .decode(text)
            .with_context(|| format!("field {field}: {tag} is not base64"))
    };
    Ok(Some(match (tag.as_str(), value) {
        (BYTES, Json::String(text)) => Pack::Binary(decode(text)?),
        (BYTES, _) => bail!("field {field}: {BYTES} must be a string of base64"),
        (FLOAT, Json::String(text)) => match text.as_str() {
            "nan" => Pack::F64(f64::NAN),
            "inf" => Pack::F64(f64::INFINITY),
            "-inf" => Pack::F64(f64::NEG_INFINITY),
            _ => bail!("field {field}: {FLOAT} must be \"nan\", \"inf\" or \"-inf\""),
        },
        (EXT, Json::Array(parts)) => match parts.as_slice() {
            [Json::Number(kind), Json::String(text)] => {
                let kind = kind.as_i64().and_then(|n| i8::try_from(n).ok());
                let kind =
                    kind.with_context(|| format!("field {field}: an {EXT} type is -128 to 127"))?;
                Pack::Ext(kind, decode(text)?)
            }
            _ => bail!("field {field}: {EXT} must be [type, \"base64\"]"),
        },
        _ => return Ok(None),
    }))
}

fn from_pack(value: Pack) -> Json {
    match value {
        Pack::Nil => Json::Null,
        Pack::Boolean(b) => Json::Bool(b),
        Pack::Integer(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => n.into(),
            (None, n) => n.into(),
        },
        Pack::F32(n) => float(n.into()),
        Pack::F64(n) => float(n),
        Pack::String(s) => match s.as_str() {
            Some(s) => s.into(),
            None => bytes(s.as_bytes()),
        },
        Pack::Binary(content) => bytes(&content),
        Pack::Array(items) => items.into_iter().map(from_pack).collect(),
        Pack::Map(entries) => Json::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key_text(key), from_pack(value)))
                .collect(),
        ),
        Pack::Ext(kind, content) => json!({ EXT: [kind, base64(&content)] }),
    }
}

fn float(n: f64) -> Json {
    if n.is_nan() {
        return json!({ FLOAT: "nan" });
    }
    if n.is_infinite() {
        return json!({ FLOAT: if n > 0.0 { "inf" } else { "-inf" } });
    }
    n.into()
}

fn key_text(key: Pack) -> String {
    match from_pack(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a JSON boolean",
        Json::Number(_) => "a JSON number",
        Json::String(_) => "a JSON string",
        Json::Array(_) => "a JSON array",
        Json::Object(_) => "a JSON object",
    }
}

const BYTES: &str = "$bytes";
const FLOAT: &str = "$float";
const EXT: &str = "$ext";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn round_trip(value: Json) {
        let payload = to_payload(&value, "it").unwrap();
        assert_eq!(from_payload(&payload).unwrap(), value);
    }

    #[test]
    fn values_round_trip() {
        round_trip(json!({}));
        round_trip(json!({
            "null": null, "yes": true, "text": "grüße \u{0}", "list": [1, [], {"a": {}}],
            "min": i64::MIN, "max": u64::MAX, "half": 0.5, "whole": 2.0, "tiny": f64::MIN_POSITIVE,
            "bytes": {"$bytes": "AP8="}, "none": {"$bytes": ""}, "ext": {"$ext": [-7, "AA=="]},
            "nan": {"$float": "nan"}, "inf": {"$float": "-inf"},
            "other": {"$bytes": "AA==", "and": 1},
        }));
    }

    #[test]
    fn binary_travels_as_binary() {
        let payload = to_payload(&json!({"b": {"$bytes": "AP8="}}), "it").unwrap();
        assert_eq!(payload.get_bin("b").as_deref(), Some(&[0, 255][..]));
    }

    #[test]
    fn what_json_lacks_comes_out_tagged() {
        let data = HashMap::from([
            (
                "map".to_owned(),
                Pack::Map(vec![(Pack::from(0), Pack::Nil)]),
            ),
            ("single".to_owned(), Pack::F32(0.5)),
        ]);
        let payload = Payload::from_map(&data).unwrap();
        assert_eq!(
            from_payload(&payload).unwrap(),
            json!({"map": {"0": null}, "single": 0.5})
        );
    }

    #[test]
    fn errors_name_the_problem() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for (text, parts) in [
            ("{\"a\":", ["--data is not JSON", "line 1 column 5"]),
            ("", ["--data is not JSON", "EOF"]),
            ("[1]", ["--data is a JSON array", "expected a JSON object"]),
            (
                "\"x\"",
                ["--data is a JSON string", "expected a JSON object"],
            ),
            ("null", ["--data is null", "expected a JSON object"]),
            (
                "{\"a\":{\"$bytes\":\"?\"}}",
                ["field a", "$bytes is not base64"],
            ),
            (
                "{\"a\":[{\"$bytes\":1}]}",
                ["field a", "must be a string of base64"],
            ),
            ("{\"a\":{\"$float\":\"1\"}}", ["field a", "\"nan\""]),
            ("{\"a\":{\"$ext\":[200,\"\"]}}", ["field a", "-128 to 127"]),
            ("{\"a\":{\"$ext\":[\"\"]}}", ["field a", "[type,"]),
            (&deep, ["--data is not JSON", "recursion limit"]),
        ] {
            let error = parse_payload(text.as_bytes(), "--data").unwrap_err();
            for part in parts {
                assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
            }
        }
    }
}
