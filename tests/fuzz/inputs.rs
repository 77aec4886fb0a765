//! Strategies for fuzzing inputs: random bytes, and mutations of valid inputs.

use proptest::prelude::*;
use proptest::sample::Index;

/// One mutation.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, Index),
    Truncate(Index),
}

impl Damage {
    fn to(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Flip(at, with) => bytes[at.index(length)] ^= with,
            Self::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Self::Remove(at) => {
                bytes.remove(at.index(length));
            }
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = bytes[from.min(to)..=from.max(to)].to_vec();
                bytes.splice(from..from, part);
            }
            Self::Truncate(at) => bytes.truncate(at.index(length)),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\0\t\n\r \"#%&+,-./0:;<=>?@[\\]{}\x7f\xff".to_vec())];
    prop_oneof![
        (any::<Index>(), 1_u8..).prop_map(|(at, with)| Damage::Flip(at, with)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
        any::<Index>().prop_map(Damage::Truncate),
    ]
}

/// One of these inputs, with up to `damages_max` mutations.
pub(crate) fn damaged(good: Vec<Vec<u8>>, damages_max: usize) -> impl Strategy<Value = Vec<u8>> {
    damaged_as(prop::sample::select(good), damages_max)
}

/// As [`damaged`], for the inputs of a strategy.
pub(crate) fn damaged_as(good: impl Strategy<Value = Vec<u8>>, damages_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let damages = prop::collection::vec(damage(), 0..=damages_max);
    (good, damages).prop_map(|(mut bytes, damages)| {
        for damage in damages {
            damage.to(&mut bytes);
        }
        bytes
    })
}

/// Any JSON: nested, with keys that the server knows, extreme numbers, any characters.
pub(crate) fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "a.b",
            ">",
            "*",
            "",
            "$hello",
            "base64",
            "abc-1",
            "now",
            "publish",
            "subscribe",
            "ack",
            "auth"
        ])
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "topic",
            "event",
            "data",
            "id",
            "type",
            "topics",
            "cursor",
            "client",
            "ref",
            "encoding",
            "deleted",
            "headers",
            "token",
            "transport",
            "__proto__",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
