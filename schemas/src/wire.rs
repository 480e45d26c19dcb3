//! The encodings that several interfaces share: tagged arrays, optional fields, string maps.
//!
//! Internal but for the few types that `lib.rs` re-exports.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A map of strings to strings: a JSON object, never a list of pairs.
pub type StringMap = BTreeMap<String, String>;

/// The parameters of a method that needs none but the debug context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {
    /// Debug context of the caller, repeated in the log
    #[schemars(extend("x-cli-default" = "cli"))]
    pub dbg: String,
}

/// Which parts of a volume something is about.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Blocklist")]
pub struct Blocklist {
    /// Bytes per block, the unit of the ranges
    pub blocksize: u64,
    /// Start and length of each range, in blocks
    pub ranges: Vec<(u64, u64)>,
}

/// Reads an optional field that is there: `null` is not a value of any of them.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Defines an enum whose every variant has one payload and is written as `["Variant", payload]`.
macro_rules! tagged {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident($payload:ty), )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant($payload), )+
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $( Self::$variant(payload) => {
                        serde::Serialize::serialize(&(stringify!($variant), payload), serializer)
                    } )+
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Pair;

                impl<'de> serde::de::Visitor<'de> for Pair {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an array of a tag and its payload")
                    }

                    fn visit_seq<A>(self, mut seq: A) -> Result<$name, A::Error>
                    where
                        A: serde::de::SeqAccess<'de>,
                    {
                        use serde::de::Error;
                        let tag: String =
                            seq.next_element()?.ok_or_else(|| Error::invalid_length(0, &self))?;
                        let value = match tag.as_str() {
                            $( stringify!($variant) => $name::$variant(
                                seq.next_element()?.ok_or_else(|| Error::invalid_length(1, &self))?,
                            ), )+
                            other => {
                                return Err(Error::unknown_variant(
                                    other,
                                    &[$( stringify!($variant) ),+],
                                ));
                            }
                        };
                        match seq.next_element::<serde::de::IgnoredAny>()? {
                            None => Ok(value),
                            Some(_) => Err(Error::invalid_length(3, &self)),
                        }
                    }
                }

                deserializer.deserialize_seq(Pair)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "oneOf": [ $( {
                        "description": concat!($($doc),+).trim_ascii(),
                        "type": "array",
                        "prefixItems": [
                            { "const": stringify!($variant) },
                            generator.subschema_for::<$payload>(),
                        ],
                        "minItems": 2,
                        "maxItems": 2,
                    } ),+ ]
                })
            }
        }
    };
}
pub(crate) use tagged;
