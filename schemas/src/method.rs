//! A method of the interface: its name, one-line doc, types, and JSON Schemas (draft 2020-12).
//!
//! Each interface's file declares its methods once, with `interface!`; [`crate::methods`] joins the
//! tables.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ErrorReply;
use crate::examples::{self, Stream};

/// A method of the interface. Implemented by one empty type per method, e.g. `volume::Create`.
pub trait Call {
    /// Name, interface, documentation and schemas of the method.
    const INFO: MethodInfo;
    /// The parameters, which arrive on stdin.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// The result, which goes to stdout.
    type Result: Serialize + DeserializeOwned + JsonSchema;
}

/// One entry of the list of methods.
#[derive(Debug, Clone, Copy)]
pub struct MethodInfo {
    /// Full name as it is spelled on disk, e.g. `Volume.create`
    pub name: &'static str,
    /// The interface it belongs to, e.g. `Volume`
    pub interface: &'static str,
    /// One line for the command line help
    pub about: &'static str,
    /// Schema of the parameters
    pub request_schema: fn() -> Value,
    /// Schema of the result
    pub response_schema: fn() -> Value,
}

/// The schema of the error that any method may answer with.
pub fn error_schema() -> Value {
    let about = "The answer of a failed call.";
    schema_of::<ErrorReply>(SchemaSettings::for_serialize, "Error", about, &examples::of_errors())
}

/// The schema of a method's parameters.
pub(crate) fn request_schema<C: Call>() -> Value {
    let title = format!("{} request", C::INFO.name);
    let values = examples::of(C::INFO.name, Stream::Stdin);
    schema_of::<C::Params>(SchemaSettings::for_deserialize, &title, C::INFO.about, &values)
}

/// The schema of a method's result.
pub(crate) fn response_schema<C: Call>() -> Value {
    let title = format!("{} response", C::INFO.name);
    let values = examples::of(C::INFO.name, Stream::Stdout);
    schema_of::<C::Result>(SchemaSettings::for_serialize, &title, C::INFO.about, &values)
}

fn schema_of<T: JsonSchema>(
    contract: fn(SchemaSettings) -> SchemaSettings,
    title: &str,
    description: &str,
    values: &[&Value],
) -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(RecursiveTransform(bound_integers));
    let mut schema = contract(settings).into_generator().into_root_schema_for::<T>();
    examples::annotate(&mut schema, values);
    // Title and description come first, for readers of the files.
    let mut fields = serde_json::Map::new();
    fields.insert("$schema".into(), schemars::consts::meta_schemas::DRAFT2020_12.into());
    fields.insert("title".into(), title.into());
    fields.insert("description".into(), description.into());
    for (name, value) in schema.as_object().into_iter().flatten() {
        fields.entry(name).or_insert_with(|| value.clone());
    }
    Value::Object(fields)
}

/// Gives integers the range of the caller's type, which is signed: a validator may ignore `format`.
fn bound_integers(schema: &mut Schema) {
    match schema.get("format").and_then(Value::as_str) {
        Some("int64") => {
            schema.insert("minimum".into(), i64::MIN.into());
            schema.insert("maximum".into(), i64::MAX.into());
        }
        Some("uint64") => {
            schema.insert("maximum".into(), i64::MAX.into());
        }
        Some("uint32") => {
            schema.insert("maximum".into(), u32::MAX.into());
        }
        _ => {}
    }
}

/// Declares the methods of one interface: an empty type with its `Call` each, and the table of them.
macro_rules! interface {
    (
        $interface:literal;
        $( $(#[doc = $doc:literal])+ $method:ident = $name:literal ($params:ty) -> $result:ty; )+
    ) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy)]
            pub struct $method;

            impl crate::method::Call for $method {
                const INFO: crate::method::MethodInfo = crate::method::MethodInfo {
                    name: concat!($interface, ".", $name),
                    interface: $interface,
                    about: concat!($($doc),+).trim_ascii(),
                    request_schema: crate::method::request_schema::<Self>,
                    response_schema: crate::method::response_schema::<Self>,
                };
                type Params = $params;
                type Result = $result;
            }
        )+

        /// The methods of this interface.
        pub const METHODS: &[crate::method::MethodInfo] =
            &[$( <$method as crate::method::Call>::INFO ),+];
    };
}
pub(crate) use interface;
