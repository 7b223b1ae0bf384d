//! How a kind is spelt where people write it: `join: host-gw`, or with its settings
//! `join: {kind: vxlan, vni: 7}`. A misspelt kind is answered with the choices.

/// Makes `$outer`, a wrapper of the tagged enum `$inner` that reads both spellings.
macro_rules! kind_or_map {
    ($outer:ident, $inner:ident) => {
        #[doc = concat!("See [`", stringify!($inner), "`].")]
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $outer(pub $inner);

        impl<'de> Deserialize<'de> for $outer {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Spelling;
                impl<'de> serde::de::Visitor<'de> for Spelling {
                    type Value = $inner;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a kind, or a map with `kind` and its settings")
                    }
                    fn visit_str<E: serde::de::Error>(self, kind: &str) -> Result<$inner, E> {
                        let fields = [("kind", kind)].into_iter();
                        $inner::deserialize(serde::de::value::MapDeserializer::new(fields))
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        map: A,
                    ) -> Result<$inner, A::Error> {
                        $inner::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_any(Spelling).map(Self)
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $outer {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($outer).into()
            }
            /// The longer spelling, which has a form of its own.
            fn json_schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $inner::json_schema(schemas)
            }
        }
        impl std::fmt::Display for $outer {
            /// The kind's name as people write it.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let value = serde_json::to_value(&self.0).unwrap_or_default();
                f.pad(value["kind"].as_str().unwrap_or_default())
            }
        }
    };
}
pub(crate) use kind_or_map;
