//! Variables: what an application says of a person so that a message can reach them, in names of its own.
//!
//! A telephone number or a mailbox is understood here; these are not. The provider of the tenant fills them into its templates (Pryv
//! contract §5), so their order matters, and they are kept as they were written.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The data cannot be where a person is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadVariables {
    /// There are none, or too many.
    #[error("the data of a person has at least one name, and no more than {most} bytes")]
    Size {
        /// The most bytes of it, as JSON.
        most: usize,
    },
    /// The policy says under which name the number stands, and nothing is there.
    #[error("the data hold no telephone number under the name that the policy says (number_in)")]
    NoNumber,
    /// A value could add another receiver to the one that was judged.
    #[error("no value of the data holds & or ; as they are: write %26 and %3B")]
    Separator,
}

/// Names and values in the order in which they are filled in: names that are whole numbers first, by number, then all others as they
/// were written. That is the order in which JavaScript walks an object (ECMA-262 §10.1.11), and so the one that templates were written for.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Variables(Vec<(String, Value)>);

impl Variables {
    /// The most bytes that they have as JSON.
    pub const MOST: usize = 16 * 1024;

    /// Takes names and values; of a name that is there twice, the first place and the last value.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut all: Vec<(String, Value)> = Vec::new();
        let mut places = BTreeMap::new();
        for (name, value) in pairs {
            match places.get(&name) {
                Some(at) => {
                    let (_, kept): &mut (String, Value) = &mut all[*at];
                    *kept = value;
                }
                None => {
                    places.insert(name.clone(), all.len());
                    all.push((name, value));
                }
            }
        }
        let number = |name: &str| name.parse::<u32>().ok().filter(|it| it.to_string() == name && *it < u32::MAX);
        all.sort_by_key(|(name, _)| number(name).map_or(u64::MAX, u64::from));
        Self(all)
    }

    /// Whether they can be where a person is reached: there is at least one, and not too much of them.
    ///
    /// # Errors
    /// [`BadVariables::Size`].
    pub fn check(&self) -> Result<(), BadVariables> {
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |it| it.len());
        if self.0.is_empty() || bytes > Self::MOST { Err(BadVariables::Size { most: Self::MOST }) } else { Ok(()) }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// These, and then `others`: of a name that is in both, the place here and the value there.
    #[must_use]
    pub fn with(&self, others: &Self) -> Self {
        Self::of(self.0.iter().chain(&others.0).cloned())
    }

    /// The one spelling by which sends and wrong codes are counted (invariant 2): whatever the order of the names.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut sorted = Value::Object(self.0.iter().cloned().collect());
        sorted.sort_all_objects();
        sorted.to_string()
    }
}

/// A value as a template shows it: what JavaScript's `String(value)` gives (Pryv contract §5).
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(it) => it.to_string(),
        Value::Number(it) => match it.as_f64().filter(|_| it.is_f64()) {
            Some(0.0) => "0".into(),
            Some(float) if float.fract() == 0.0 && float.abs() < 1e21 => format!("{float:.0}"),
            _ => it.to_string(),
        },
        Value::String(it) => it.clone(),
        Value::Array(items) => {
            let shown = items.iter().map(|it| if it.is_null() { String::new() } else { shown(it) });
            shown.collect::<Vec<_>>().join(",")
        }
        Value::Object(_) => "[object Object]".into(),
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variables(…)")
    }
}

impl Serialize for Variables {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, Value>()? {
                    pairs.push(pair);
                }
                Ok(Variables::of(pairs))
            }
        }
        d.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Variables {
        serde_json::from_str(json).expect("an object")
    }

    #[test]
    fn they_keep_their_order_and_numbers_go_first() {
        let it = read(r#"{"b":1,"10":"x","a":2,"2":"y","b":3,"02":"z"}"#);
        assert_eq!(serde_json::to_string(&it).expect("JSON"), r#"{"2":"y","10":"x","b":3,"a":2,"02":"z"}"#);
        assert_eq!(it.canonical(), read(r#"{"a":2,"02":"z","b":3,"2":"y","10":"x"}"#).canonical());
    }

    #[test]
    fn what_is_in_both_keeps_its_place_and_takes_the_other_value() {
        let both = read(r#"{"code":"1","number":"x"}"#).with(&read(r#"{"number":"41","message":"m"}"#));
        assert_eq!(serde_json::to_string(&both).expect("JSON"), r#"{"code":"1","number":"41","message":"m"}"#);
    }

    #[test]
    fn values_are_shown_as_a_script_would() {
        for (json, text) in [
            ("\"a\"", "a"),
            ("41791231212", "41791231212"),
            ("1.0", "1"),
            ("1.5", "1.5"),
            ("-0", "0"),
            ("null", "null"),
            ("true", "true"),
            ("[1,null,[2,\"b\"]]", "1,,2,b"),
            ("{\"a\":1}", "[object Object]"),
        ] {
            assert_eq!(shown(&serde_json::from_str(json).expect("JSON")), text, "{json}");
        }
    }

    #[test]
    fn none_and_too_many_are_refused() {
        assert!(Variables::default().check().is_err() && read(r#"{"n":"41"}"#).check().is_ok());
        let large = Variables::of([("n".to_owned(), Value::from("x".repeat(Variables::MOST)))]);
        assert!(large.check().is_err() && format!("{large:?}") == "Variables(…)");
    }
}
