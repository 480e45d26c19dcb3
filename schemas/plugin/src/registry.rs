//! The parts of a plugin: the methods that it implements and its maintenance commands.

use std::collections::BTreeMap;
use std::fmt;

use smapiv3::{Call, Error, Failure, MethodInfo};

use crate::diagnose;
use crate::log::Log;

/// A method, with its types erased: from the bytes of the request to those of the answer.
type CallFn<C> = dyn Fn(&Context<'_, C>, &[u8]) -> Result<Vec<u8>, Fault>;
type CommandFn<C> = dyn Fn(&Context<'_, C>, &Args) -> Result<String, Error>;

/// Why a call failed: the request was not valid, or the method returned an error.
pub(crate) enum Fault {
    Request(Error),
    Method(Error),
}

/// A plugin: its name, its configuration, and the methods that it implements.
pub struct Registry<C> {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) about: &'static str,
    config: Result<C, String>,
    pub(crate) methods: Vec<Method<C>>,
    pub(crate) commands: Vec<Command<C>>,
}

pub(crate) struct Method<C> {
    pub(crate) info: MethodInfo,
    pub(crate) call: Box<CallFn<C>>,
}

pub(crate) struct Command<C> {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) args: &'static [Arg],
    pub(crate) run: Box<CommandFn<C>>,
}

impl<C> Registry<C> {
    /// A plugin that implements nothing yet. Where its configuration could not be read, every call
    /// fails with the reason, and help is still printed.
    pub fn new(
        name: &'static str,
        version: &'static str,
        about: &'static str,
        config: Result<C, impl fmt::Display>,
    ) -> Self {
        let config = config.map_err(|error| error.to_string());
        Self { name, version, about, config, methods: Vec::new(), commands: Vec::new() }
    }

    /// The configuration, for a call that is about to run.
    pub(crate) fn config(&self) -> Result<&C, Error> {
        self.config.as_ref().map_err(|error| Error::new(Failure::InvalidArg, error))
    }

    /// Adds a method of the interface, by its type in the crate `smapiv3`. Add working methods only: each becomes an installed
    /// link, and each link a feature in the eyes of the caller.
    #[must_use]
    pub fn method<M: Call>(
        mut self,
        run: impl Fn(&Context<'_, C>, M::Params) -> Result<M::Result, Error> + 'static,
    ) -> Self {
        self.methods.push(Method {
            info: M::INFO,
            call: Box::new(move |context, request| {
                let params = diagnose::parse::<M>(request).map_err(Fault::Request)?;
                let result = run(context, params).map_err(Fault::Method)?;
                serde_json::to_vec(&result).map_err(|source| {
                    let message = format!("{}: the result cannot be written", M::INFO.name);
                    Fault::Method(Error::new(Failure::SmGeneral, message).caused_by(source))
                })
            }),
        });
        self
    }

    /// Adds a maintenance command, which the toolstack never calls. Its result is printed.
    ///
    /// ```
    /// use smapiv3_plugin::{Arg, Registry, testing};
    ///
    /// const ARGS: &[Arg] = &[Arg::required("sr", "The SR to look at")];
    /// let registry = Registry::new("my-plugin", "1.0", "An example", Ok::<_, String>(()))
    ///     .command("check", "Look for damage", ARGS, |_, args| {
    ///         Ok(format!("{} is well\n", args.get("sr").unwrap_or_default()))
    ///     });
    /// let outcome = testing::run_plugin(&registry, &["my-plugin", "check", "--sr", "x"], "");
    /// assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "x is well\n"));
    /// ```
    #[must_use]
    pub fn command(
        mut self,
        name: &'static str,
        about: &'static str,
        args: &'static [Arg],
        run: impl Fn(&Context<'_, C>, &Args) -> Result<String, Error> + 'static,
    ) -> Self {
        self.commands.push(Command { name, about, args, run: Box::new(run) });
        self
    }

    /// Names of the methods that this plugin implements, in the order they were added.
    pub fn method_names(&self) -> impl Iterator<Item = &'static str> {
        self.methods.iter().map(|method| method.info.name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Method<C>> {
        self.methods.iter().find(|method| method.info.name.eq_ignore_ascii_case(name))
    }
}

/// The context of a call: everything that a method gets beside its parameters.
pub struct Context<'a, C> {
    /// Name of the method or command that runs
    pub method: &'a str,
    /// Debug context of the caller
    pub dbg: &'a str,
    /// The configuration of the plugin
    pub config: &'a C,
    /// The log; each message carries the method, the debug context, and the SR, volume and domain of the call
    pub log: &'a Log<'a>,
}

/// An argument of a maintenance command: always `--<name>`.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: ArgKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArgKind {
    Flag,
    Option,
    Required,
}

impl Arg {
    /// An argument without a value.
    pub const fn flag(name: &'static str, about: &'static str) -> Self {
        Self { name, about, kind: ArgKind::Flag }
    }

    /// An argument with a value, which may be left out.
    pub const fn option(name: &'static str, about: &'static str) -> Self {
        Self { name, about, kind: ArgKind::Option }
    }

    /// An argument with a value, which may not be left out.
    pub const fn required(name: &'static str, about: &'static str) -> Self {
        Self { name, about, kind: ArgKind::Required }
    }
}

/// The arguments that a maintenance command was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(pub(crate) BTreeMap<&'static str, String>);

impl Args {
    /// The value of an argument that has one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether an argument was given.
    pub fn given(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
