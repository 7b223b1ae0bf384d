//! Types whose form in records is not their own: for the schema of what people write. The rest is
//! derived where the types are.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// An address range, such as `10.1.0.0/16`.
pub struct Prefix;

impl JsonSchema for Prefix {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Prefix".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "cidr", "maxLength": 50})
    }
}
